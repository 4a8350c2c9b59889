"""Growth of resident memory, the coarse view from outside."""

import ctypes
import multiprocessing
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing import Process

import psutil
from memory_profiler import MemTimer, memory_usage

from harness.matrix.metrics import Samples
from harness.probes.target import Target

_watch = MemTimer.run


def _start_to_end_with_us(watcher: MemTimer) -> None:
    watcher.daemon = True
    Process.start(watcher)


def _watch_in_silence(watcher: MemTimer) -> None:
    with suppress(psutil.Error, OSError, EOFError):
        _watch(watcher)


# memory-profiler's watching child would hold up the end of a process that is stopped while it is
# watched, and then complain that the process is gone.
MemTimer.start = _start_to_end_with_us
MemTimer.run = _watch_in_silence

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_MIB = 2**20


def resident_memory(target: Target) -> Samples:
    """Measure the resident memory of the first estimate of this process, on the CPU."""
    cpu = target.cell.device == "cpu"
    return {"resident_memory": [resident_growth(target.estimates)]} if cpu else {}


def resident_growth(work: Callable[[], object]) -> int:
    """Return the peak of resident memory during `work` above that before it.

    Call it first in a fresh process: whatever ran before leaves pages that are used again.
    What the libraries load on their first use is counted too.
    """
    if "fork" in multiprocessing.get_all_start_methods():
        # memory-profiler watches from a child of ours; a fork server for it would cost more time
        # than most of what is measured.
        multiprocessing.set_start_method("fork", force=True)
    with _freed_memory_returned_at_once():
        before = max(memory_usage(-1, interval=0.001, timeout=0.003))
        peak = memory_usage((work, (), {}), interval=0.001, max_usage=True, max_iterations=1)
    return max(0, round(float(peak - before) * _MIB))


@contextmanager
def _freed_memory_returned_at_once() -> Generator[None]:
    """Make glibc give back freed blocks of 64 KiB or more at once.

    With glibc's defaults resident memory ran three times above the tensors' peak. Afterwards
    blocks are kept for reuse, since giving them back makes all that follows slower.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if not mallopt:
        yield
        return

    def set_thresholds(size: int) -> None:
        mallopt(_M_MMAP_THRESHOLD, size)
        mallopt(_M_TRIM_THRESHOLD, size)

    set_thresholds(64 * 1024)
    try:
        yield
    finally:
        set_thresholds(32 * _MIB)
