"""How much of the time a GPU is at work while an estimate is repeated on it."""

from collections.abc import Callable
from threading import Event, Thread
from time import perf_counter

import pynvml
import torch

from harness.environment.gpus import gpu_of, query

# The driver reports the share of a window that has just passed: of 1/6 s to 1 s, by kind of GPU.
# Before the longest has passed it would include earlier work; within the shortest it repeats.
_WINDOWS = (1 / 6, 1.0)
SECONDS = 2.0  # so that at least six windows, or one long one, are of the work alone


def utilisation(work: Callable[[], object], device: str) -> list[float]:
    """Return the share of the time in which kernels of repeated work were running, in per cent.

    The driver measures it and is read from a thread; it has no readings for parts of a GPU. Its
    buffer of older samples would need no thread, but how long a time each covers is not documented.
    """
    readings: list[float] = []
    ended = Event()

    def watch() -> None:
        pause, longest = _WINDOWS
        until = longest
        while not ended.wait(until):
            if (rates := query(pynvml.nvmlDeviceGetUtilizationRates, gpu)) is not None:
                readings.append(float(rates.gpu))
            until = pause

    with gpu_of(device) as gpu:
        if gpu is None or query(pynvml.nvmlDeviceGetUtilizationRates, gpu) is None:
            return []
        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            end = perf_counter() + SECONDS
            while perf_counter() < end:
                work()
                torch.cuda.synchronize(device)
        finally:
            ended.set()
            watcher.join()
    return readings
