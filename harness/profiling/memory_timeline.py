"""The memory timeline: bytes alive after each allocation and release, and what they are."""

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


@dataclass(frozen=True)
class Change:
    """An allocation or a release.

    Attributes:
        bytes: allocated; below 0: released.
        live: bytes alive afterwards, above those before the estimate.
        phase: in which it happened.
        operator: that allocated it; empty for a release, and where it is not known.
    """

    bytes: int
    live: int
    phase: str
    operator: str


@dataclass(frozen=True)
class Held:
    """Tensors alike that are alive at the peak.

    Attributes:
        phase: in which they were made.
        operator: that made them.
        shape: of the tensor that came with the storage, as "10 x 40"; empty for a scalar.
        dtype: as "float32".
        count: how many.
        bytes: of all of them.
    """

    phase: str
    operator: str
    shape: str
    dtype: str
    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Timeline:
    """What the memory of one estimate does.

    Attributes:
        changes: in the order of time.
        held: tensors at the peak, the most bytes first; empty where they cannot be known.
    """

    changes: list[Change]
    held: list[Held]

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return max((change.live for change in self.changes), default=0)

    @property
    def peak_phase(self) -> str:
        """The phase in which the peak is reached first; empty if nothing is allocated."""
        return next((one.phase for one in self.changes if one.live == self.peak), "")

    @property
    def peak_by_phase(self) -> dict[str, int]:
        """Most bytes alive during each phase in which memory changes."""
        peaks: dict[str, int] = {}
        for change in self.changes:
            peaks[change.phase] = max(peaks.get(change.phase, 0), change.live)
        return peaks


def follow(work: Callable[[], object]) -> Timeline:
    """Follows the storages of an estimate; its peak is that of `peak_memory` on the CPU.

    On CUDA, too, storages are followed, not blocks of the allocator.
    """
    gc.collect()  # as `peak_memory` does
    storages = _Storages()
    with watched(storages.enter), storages:
        result = work()
        timeline = storages.timeline()
    del result
    return timeline


def overhear(work: Callable[[], object]) -> Timeline:
    """Returns the allocations of a compiled estimate on the CPU, as torch's profiler tells them.

    Its peak is that of `profiled_peak`; neither phases nor tensors can be known.
    """
    sizes = profiled_changes(work)
    phase = str(Phase.META_GRADIENT)
    return Timeline(
        [
            Change(size, live, phase, "")
            for size, live in zip(sizes, accumulate(sizes), strict=True)
        ],
        [],
    )


@dataclass
class _Made:
    """A storage and where it comes from."""

    phase: str
    operator: str
    shape: str = ""
    dtype: str = ""


class _Storages(LiveStorages):  # type: ignore[no-untyped-call]
    """Keeps a record of every change of the live bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._phase = str(Phase.META_GRADIENT)
        self._operator = ""
        self._made: list[_Made] = []
        self._numbers: dict[int, int] = {}
        self._changes: list[tuple[int, int, str]] = []  # which of those made, bytes, phase

    def enter(self, phase: Phase) -> None:
        """Is told of phases."""
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
        if number is not None and not self._made[number].dtype:
            self._made[number].shape = " x ".join(str(size) for size in tensor.shape)
            self._made[number].dtype = str(tensor.dtype).removeprefix("torch.")

    def _follow(self, storage: torch.UntypedStorage, *, born: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        old = self._sizes.get(key, 0 if born else size)
        super()._follow(storage, born=born)
        if size != old:
            if key not in self._numbers:
                self._numbers[key] = len(self._made)
                self._made.append(_Made(self._phase, self._operator))
            self._change(key, size)
            if old:  # the old bytes go after the new ones came
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
        """Returns what happened so far."""
        lives = list(accumulate(size for _, size, _ in self._changes))
        changes = [
            Change(size, live, phase, self._made[number].operator if size > 0 else "")
            for (number, size, phase), live in zip(self._changes, lives, strict=True)
        ]
        at_peak: Counter[int] = Counter()
        if lives:
            for number, size, _ in self._changes[: lives.index(max(lives)) + 1]:
                at_peak[number] += size
        alike: dict[Held, list[int]] = {}
        for number, size in at_peak.items():
            if size:
                alike.setdefault(Held(**vars(self._made[number])), []).append(size)
        held = [replace(kind, count=len(sizes), bytes=sum(sizes)) for kind, sizes in alike.items()]
        return Timeline(changes, sorted(held, key=lambda one: -one.bytes))
