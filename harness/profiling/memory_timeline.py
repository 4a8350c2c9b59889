"""The memory timeline: bytes alive after each allocation and release, and their tensors."""

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch.utils._pytree import tree_iter

from estimators.base.phases import Phase, watched
from harness.probes.memory import LiveStorages, profiled_changes
from harness.profiling.folder import Change, Tensors


@dataclass(frozen=True)
class Timeline:
    """The changes of one estimate's memory, and the tensors at its peak where they are known."""

    changes: list[Change]
    tensors: list[Tensors]

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return max((change.live for change in self.changes), default=0)

    @property
    def peak_phase(self) -> str:
        """The phase in which the peak is first reached; empty if nothing is allocated."""
        return next((one.phase for one in self.changes if one.live == self.peak), "")

    @property
    def peak_by_phase(self) -> dict[str, int]:
        """Most bytes alive during each phase in which memory changes."""
        peaks: dict[str, int] = {}
        for change in self.changes:
            peaks[change.phase] = max(peaks.get(change.phase, 0), change.live)
        return peaks


def follow_storages(work: Callable[[], object]) -> Timeline:
    """Follow the storages of an estimate; on the CPU the peak is that of `peak_memory`.

    On CUDA, too, storages are followed, not blocks of the allocator.
    """
    gc.collect()  # as `peak_memory` does
    storages = _Storages()
    with watched(storages.enter), storages:
        result = work()
        timeline = storages.timeline()
    del result
    return timeline


def follow_allocations(work: Callable[[], object]) -> Timeline:
    """Return the allocations of a compiled estimate on the CPU, as torch's profiler records them.

    Its peak is that of `profiled_peak`; neither phases nor tensors can be known.
    """
    sizes = profiled_changes(work)
    phase = str(Phase.META_GRADIENT)
    changes = zip(sizes, accumulate(sizes), strict=True)
    return Timeline([Change(size, live, phase, "") for size, live in changes], [])


class _Storages(LiveStorages):  # type: ignore[no-untyped-call]
    """A dispatch mode that records every change of the live bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._phase = str(Phase.META_GRADIENT)
        self._operator = ""
        self._allocated: list[Tensors] = []
        self._numbers: dict[int, int] = {}
        self._changes: list[tuple[int, int, str]] = []  # index of `_allocated`, bytes, phase

    def enter(self, phase: Phase) -> None:
        """Take note of the phase that begins."""
        self._phase = str(phase)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `LiveStorages`."""
        self._operator = func.name().partition(".")[0]
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                self._describe(tensor)
        return result

    def _describe(self, tensor: torch.Tensor) -> None:
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is not None and not self._allocated[number].dtype:
            self._allocated[number] = replace(
                self._allocated[number],
                shape=" x ".join(str(size) for size in tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
            )

    def _follow(self, storage: torch.UntypedStorage, *, born: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        old = self._sizes.get(key, 0 if born else size)
        super()._follow(storage, born=born)
        if size != old:
            if key not in self._numbers:
                self._numbers[key] = len(self._allocated)
                self._allocated.append(Tensors(self._phase, self._operator))
            self._change(key, size)
            if old:  # the old bytes are released after the new ones are allocated
                self._change(key, -old)

    def _forget(self, key: int) -> None:
        size = self._sizes[key] - self._uncounted[key]
        super()._forget(key)
        if size:
            self._change(key, -size)
        self._numbers.pop(key, None)

    def _change(self, key: int, size: int) -> None:
        self._changes.append((self._numbers[key], size, self._phase))

    def timeline(self) -> Timeline:
        """Return the changes so far, with the tensors at the peak."""
        lives = list(accumulate(size for _, size, _ in self._changes))
        changes = [
            Change(size, live, phase, self._allocated[number].operator if size > 0 else "")
            for (number, size, phase), live in zip(self._changes, lives, strict=True)
        ]
        at_peak: Counter[int] = Counter()
        if lives:
            for number, size, _ in self._changes[: lives.index(max(lives)) + 1]:
                at_peak[number] += size
        alike: dict[Tensors, list[int]] = {}
        for number, size in at_peak.items():
            if size:
                alike.setdefault(self._allocated[number], []).append(size)
        tensors = [replace(kind, count=len(all_), bytes=sum(all_)) for kind, all_ in alike.items()]
        return Timeline(changes, sorted(tensors, key=lambda row: -row.bytes))
