"""Bytes of live tensors: what a problem holds, and the peak of an estimate above it."""

import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from harness.matrix.metrics import Samples
from harness.probes.target import Target


def memory(target: Target) -> Samples:
    """Measure the tensor memory of one estimate, whose caches are filled already.

    Of a random estimator it is that of the estimate that takes most.
    """
    device = target.cell.device
    samples: Samples = {"baseline_memory": [baseline_memory(target.build, device)]}
    if target.compiled and device == "cpu":
        return samples | {"peak_memory": [profiled_peak(target.estimates)]}
    peak, retained = peak_and_retained(target.estimates, device)
    samples |= {"peak_memory": [peak], "retained_memory": [retained]}
    if device != "cpu":
        samples["reserved_memory"] = [reserved_memory(target.estimates, device)]
    return samples


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators allocate, from their birth to their end.

    Resident memory is no measure of tensor memory: the allocator keeps and reuses pages. A
    storage is counted once and in full, however many tensors and views share it; one that is
    resized counts with its new size, and with both while it is copied. Storages that were there
    before are not counted, nor is memory that is not torch's, such as that of numpy arrays.
    Buffers inside a kernel and sparse tensors are not seen, and a storage that is resized behind
    the operators' back (`UntypedStorage.resize_`) only when it is next used.
    """

    def __init__(self, *, given: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._given = given
        self._sizes: dict[int, int] = {}  # as last seen
        self._uncounted: dict[int, int] = {}  # the part of it that was there before

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch would import its compiler, for a second, at the first operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and look at what it was given and what it returned."""
        # A tensor that is first met as an input was there before; its views share its storage.
        # Except for `lift_fresh`: Python has just created what that is given.
        fresh = func is torch.ops.aten.lift_fresh.default
        for storage in storages((args, kwargs)):
            self._follow(storage, born=self._given or (fresh and storage.resizable()))
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            self._follow(storage, born=True)
        return result

    def _follow(self, storage: torch.UntypedStorage, *, born: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            self._sizes[key] = self._uncounted[key] = 0 if born else size
            weakref.finalize(storage, self._forget, key)
        if size != self._sizes[key]:
            self.peak = max(self.peak, self.live + size)  # the old bytes go after the new ones came
            self.live += size - self._sizes[key]
            self._sizes[key] = size

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key) - self._uncounted.pop(key)


def storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    """Yield the storages of all tensors in a tree of containers; some may come more than once."""
    for tensor in tree_iter(tree):
        if not isinstance(tensor, torch.Tensor):
            continue
        if is_traceable_wrapper_subclass(tensor):
            names, _ = tensor.__tensor_flatten__()
            yield from storages([getattr(tensor, name) for name in names])
        elif tensor.layout is torch.strided and not (tensor.is_meta or tensor._is_zerotensor()):
            # Zero tangents, and what forward mode makes of them, have sizes and no memory.
            yield tensor.untyped_storage()


def baseline_memory(build: Callable[[], object], device: str) -> int:
    """Return the bytes of tensors that what `build` returns holds.

    They are counted by what is freed when it is dropped, so that caches are not; on the CPU those
    of numpy arrays that tensors share, too. Run it a second time, for what libraries allocate at
    their first use is not the problem's.

    Example:
        >>> baseline_memory(lambda: torch.ones(10)[:5], "cpu")
        40
    """
    gc.collect()
    if device.startswith("cuda"):
        built = build()
        gc.collect()
        held = torch.cuda.memory_allocated(device)
        del built
        gc.collect()
        return int(held - torch.cuda.memory_allocated(device))
    tracker = LiveStorages(given=True)
    with tracker:
        built = build()
        gc.collect()
    alive = tracker.live
    del built
    gc.collect()
    return alive - tracker.live


def peak_memory(work: Callable[[], object], device: str) -> int:
    """Return the most bytes of tensors alive at once during `work`, above those before it."""
    return peak_and_retained(work, device)[0]


def peak_and_retained(work: Callable[[], object], device: str) -> tuple[int, int]:
    """Return the most bytes of tensors alive at once during `work`, and how many it leaves alive.

    Both above those before it. What is alive when the result is gone is a cache or a leak; run it
    a second time, and caches are there already. On the CPU live storages are followed and the
    figures repeat to the byte; on CUDA they are the allocator's own.
    """
    gc.collect()  # what is collected meanwhile is then the work's own, and alike in every run
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        peak = torch.cuda.max_memory_allocated(device) - before
        gc.collect()
        return int(peak), int(torch.cuda.memory_allocated(device) - before)
    tracker = LiveStorages()
    with tracker:
        work()
    gc.collect()
    return tracker.peak, tracker.live


def reserved_memory(work: Callable[[], object], device: str) -> int:
    """Return the most bytes that CUDA's caching allocator took from the device during `work`.

    More than `peak_memory` by what rounding to blocks and fragmentation cost; it decides whether
    an estimate fits on a device. Blocks that lie unused are given back before.
    """
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return int(torch.cuda.max_memory_reserved(device) - before)


def profiled_peak(work: Callable[[], object]) -> int:
    """Return `peak_memory` of work on the CPU that a dispatch mode cannot see: compiled programs.

    torch's profiler records every allocation; it needs more time and memory for that.
    """
    return max(accumulate(profiled_changes(work), initial=0))


def profiled_changes(work: Callable[[], object]) -> list[int]:
    """Return the bytes that work on the CPU allocates, and below 0 releases, one by one."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    del result
    events = profiler.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())  # stable
    return [int(event.nbytes()) for event in changes]
