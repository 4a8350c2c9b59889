"""Interference with a measurement of time, from the system's counters and the samples."""

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pynvml
from scipy.stats import kendalltau

from harness.environment.gpus import gpu_of, query, slowed
from harness.environment.machine import overheated, throttled

# Above what quiet runs reach on two virtual processors (17 groups, 91 series of 7 samples): there
# others used up to .02 and .02 were stolen; of the series, nine in ten waited for less than .002,
# half had a spread below .15, 99 in 100 below .5. Three drifted, two of them by a third: the
# machine itself was quicker from then on.
_OTHERS = 0.10  # of all processors
_STOLEN = 0.03
_WAITED = 0.02  # of the wall time
_TICKS = 0.05  # seconds: /proc/stat counts in hundredths, and less than five say nothing
_SLOWER_CLOCK = 0.9  # of the frequency before
_DRIFT, _CHANCE = 1.15, 0.01  # last third over first or the reverse; of a rank correlation
_SPREAD = 0.5  # interquartile range over median

_ROOT = Path("/")


@dataclass(frozen=True)
class Reading:
    """The system's counters at one time; the difference of two readings is of use.

    A counter that a system lacks is 0.

    Attributes:
        processors: how many this process may use; `busy` and `stolen` are theirs.
        busy: CPU seconds that they worked for anyone here.
        stolen: CPU seconds that a hypervisor gave to other machines.
        own: CPU seconds of this process.
        throttled: how often this process's control groups had used their processor time up.
        megahertz: of the fastest processor now.
    """

    at: float
    processors: int
    busy: float
    stolen: float
    own: float
    throttled: int = 0
    overheated: int = 0
    megahertz: float = 0.0


def read(root: Path = _ROOT) -> Reading:
    """Read the system's counters; takes about a millisecond."""
    processors = [each._asdict() for each in psutil.cpu_times(percpu=True)]
    if hasattr(os, "sched_getaffinity"):
        ours = os.sched_getaffinity(0)
        processors = [each for index, each in enumerate(processors) if index in ours] or processors
    total: Counter[str] = Counter()
    for each in processors:
        total.update(each)
    # Linux counts the time of guests as the user's too.
    not_busy = ("idle", "iowait", "steal", "guest", "guest_nice")
    return Reading(
        at=time.perf_counter(),
        processors=len(processors),
        busy=sum(seconds for name, seconds in total.items() if name not in not_busy),
        stolen=total["steal"],
        own=time.process_time(),
        throttled=throttled(root) or 0,
        overheated=overheated(root) or 0,
        megahertz=_megahertz(),
    )


def seconds_waited(root: Path = _ROOT) -> float:
    """Return how long this thread has waited for a processor that others had; 0 if unknown.

    Linux counts it to the nanosecond. CPU time against wall time would tell of sleep as well.
    """
    with suppress(OSError, ValueError, IndexError):
        text = (root / "proc/thread-self/schedstat").read_text(encoding="ascii")
        return int(text.split()[1]) / 1e9
    return 0.0


def machine_notes(before: Reading, after: Reading) -> list[str]:
    """Describe what the rest of the machine did between two readings; empty if it was quiet.

    The load average is no part of it: it looks back a minute, and counts this process.
    """
    notes: list[str] = []
    available = (after.at - before.at) * after.processors
    others = after.busy - before.busy - (after.own - before.own)
    if others > max(_OTHERS * available, _TICKS):
        share = min(1.0, others / available)
        notes.append(f"others used {share:.0%} of the processors while this was timed")
    stolen = after.stolen - before.stolen
    if stolen > max(_STOLEN * available, _TICKS):
        share = min(1.0, stolen / available)
        notes.append(f"the hypervisor took {share:.0%} of the processors while this was timed")
    if after.overheated > before.overheated:
        times = after.overheated - before.overheated
        notes.append(f"processors were throttled for heat {times} times while this was timed")
    if after.throttled > before.throttled:
        times = after.throttled - before.throttled
        notes.append(f"the control group's CPU quota was used up {times} times meanwhile")
    if after.megahertz < _SLOWER_CLOCK * before.megahertz:
        notes.append(
            f"the clock fell from {before.megahertz:.0f} to {after.megahertz:.0f} MHz meanwhile"
        )
    return notes


def gpu_notes(device: str) -> list[str]:
    """Return who else has a GPU in use and what slows it down now, as far as its driver knows."""
    if not device.startswith("cuda"):
        return []
    with gpu_of(device) as gpu:
        if gpu is None:
            return []
        notes = []
        # One is this process. Which one, a container often cannot know: it has numbers of its own.
        running = query(pynvml.nvmlDeviceGetComputeRunningProcesses, gpu) or ()
        others = len({process.pid for process in running}) - 1
        if others > 0:
            who = "another process" if others == 1 else f"{others} other processes"
            notes.append(f"{who} had the GPU in use at the end")
        if reasons := slowed(gpu):
            notes.append(f"the GPU was slowed down at the end by {' and '.join(reasons)}")
        return notes


def waiting_notes(waited: float, wall: float) -> list[str]:
    """Describe how long one piece of work had to wait for a processor."""
    if waited > _WAITED * wall:
        return [f"waited for a processor {min(1.0, waited / wall):.0%} of the time"]
    return []


def sample_notes(seconds: list[float]) -> list[str]:
    """Describe drift and scatter in samples; the same for the same samples.

    Samples have drifted when Kendall's rank correlation with their order is no chance and the
    last third differs from the first by an amount that matters. They scatter when their
    quartiles are far apart.

    Example:
        >>> sample_notes([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
        ['samples drifted: the last third took 1.38 times the first']
    """
    count = len(seconds)
    if count < 6:
        return []
    notes: list[str] = []
    third = count // 3
    change = float(np.median(seconds[-third:]) / np.median(seconds[:third]))
    chance = kendalltau(range(count), seconds).pvalue  # not a number for equal samples
    if chance < _CHANCE and not 1 / _DRIFT < change < _DRIFT:
        notes.append(f"samples drifted: the last third took {change:.2f} times the first")
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    spread = float((high - low) / median)
    if spread > _SPREAD:
        notes.append(f"samples scattered: their quartiles are {spread:.0%} of the median apart")
    return notes


def _megahertz() -> float:
    with suppress(OSError, RuntimeError, NotImplementedError):
        return max((each.current for each in psutil.cpu_freq(percpu=True)), default=0.0)
    return 0.0
