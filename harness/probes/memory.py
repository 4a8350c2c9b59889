"""Peak bytes of live tensors."""

import os
import weakref
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators allocate, from their birth to their end.

    Resident memory is no measure of tensor memory: the allocator keeps and reuses pages. A
    storage is counted once, however many tensors and views share it; those that existed before
    are not counted. Buffers inside a kernel are not seen.

    Attributes:
        live: bytes alive now.
        peak: most bytes alive so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and looks at what it was given and what it returned."""
        # A tensor that is first met as an input was there before; its views share its storage.
        self._follow((args, kwargs), counted=False)
        result = func(*args, **(kwargs or {}))
        self._follow(result, counted=True)
        return result

    def _follow(self, tensors: Any, *, counted: bool) -> None:
        for tensor in tree_iter(tensors):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                size = storage.nbytes() if counted else 0
                self._known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def profiled_peak(work: Callable[[], object]) -> int:
    """Returns the same for work on the CPU that a dispatch mode cannot see: compiled programs.

    torch's profiler tells every allocation; it needs more time and memory for that.

    Args:
        work: what to measure.

    Returns:
        Bytes.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or torch tells of every profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(max(accumulate((size for _, size in sorted(sizes)), initial=0)))


def peak_memory(work: Callable[[], object], device: str) -> int:
    """Returns the most bytes of tensors alive at once during `work`, above those before it.

    On the CPU live storages are followed and the figure repeats to the byte; on CUDA it is the
    allocator's own peak.

    Args:
        work: what to measure.
        device: where it works.

    Returns:
        Bytes.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    storages = LiveStorages()
    with storages:
        work()
    return storages.peak
