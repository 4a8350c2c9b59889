"""Wall time, sampled in turns so that all of a group meet the same machine."""

import gc
from collections.abc import Callable
from time import perf_counter

import torch

Work = Callable[[], object]
_LEAST_SECONDS = 0.005  # a sample shorter than this is mostly the clock and the scheduler


def interleaved_times(works: list[Work], *, samples: int, device: str) -> list[list[float]]:
    """Times several pieces of work in turns: one sample of each, then the next of each.

    Each is run twice before, to warm up; short ones are repeated within a sample. The garbage
    collector rests meanwhile.

    Args:
        works: what to time.
        samples: how many samples of each.
        device: where the work runs; CUDA is waited for at both ends of a sample.

    Returns:
        Seconds of one run, [work][sample].
    """

    def sample(work: Work, runs: int) -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        start = perf_counter()
        for _ in range(runs):
            work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return (perf_counter() - start) / runs

    runs = []
    for work in works:
        sample(work, 1)
        runs.append(max(1, round(_LEAST_SECONDS / sample(work, 1))))
    times: list[list[float]] = [[] for _ in works]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(samples):
            for work, count, mine in zip(works, runs, times, strict=True):
                mine.append(sample(work, count))
    finally:
        if collecting:
            gc.enable()
    return times
