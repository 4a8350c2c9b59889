"""Wall time, sampled in turns so that all of a group meet the same machine."""

import gc
import os
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from time import perf_counter
from typing import Any

import torch

from estimators.base.phases import Phase, watched
from harness.probes.draws import Estimates
from harness.probes.interference import (
    gpu_notes,
    machine_notes,
    read,
    sample_notes,
    seconds_waited,
    waiting_notes,
)

Work = Callable[[], object]
LEAST_SECONDS = 0.003
"""A sample of time that is shorter is mostly the clock and the scheduler."""

_ENOUGH_CALLS = 100  # to warm up, if they do not make up a sample before
_MOST_WARM_UP = 2.0  # seconds
PHASE_SAMPLES = 3
_FALL = 0.9  # calls of one program differ by as much on a shared machine


@dataclass(frozen=True)
class Timing:
    """Samples of the time of one piece of work.

    Attributes:
        seconds: of one run, one a sample; of `Estimates`, the mean of one.
        phases: the same by phase of an estimate, in the order of their first occurrence, from
            samples of their own. Empty where phases are not marked: in compiled programs, and in
            work that is no estimate.
        warm_up: calls before the first sample.
        runs: calls within a sample, of which `seconds` is the mean.
        notes: what disturbed the samples, one short sentence each; none when all was quiet.
    """

    seconds: list[float]
    phases: dict[str, list[float]]
    warm_up: int
    runs: int
    notes: list[str]


def interleaved_times(
    works: list[Work],
    *,
    samples: int,
    device: str,
    on_part: Callable[[int], object] = lambda index: None,
) -> list[Timing]:
    """Time several pieces of work in turns: one sample of each, then the next of each.

    Each is warmed up before, until it gets no faster; short ones are repeated within a sample.
    Phases have their own samples, in some of the rounds, since watching them takes some per cent
    of the smallest estimates.
    The garbage collector rests meanwhile. CUDA is timed by its own events, and waited for at both
    ends of a sample. The number of threads stays at OMP_NUM_THREADS; the process is not bound
    to a processor, where it could not get out of the way of others.
    """
    series = [series_of(work, device) for work in works]
    with _garbage_kept():
        for number, each in enumerate(series):
            on_part(number)
            each.warm_up()
        gc.collect()
        gc.freeze()
        gc.disable()
        before = read()
        for index in range(samples):
            for number, each in enumerate(series):
                on_part(number)
                each.sample()
                if index < PHASE_SAMPLES:
                    each.sample_phases()
            gc.collect()  # of the round's garbage alone, which could hold a lot of memory
        everywhere = machine_notes(before, read()) + gpu_notes(device)
    return [each.timing(everywhere) for each in series]


def series_of(work: Work, device: str) -> "Series":
    """Return a piece of work that is to be timed, without any samples yet."""
    clock = _CudaClock(device) if device.startswith("cuda") else _Clock()
    return Series(work, clock, _threads(), len(work) if isinstance(work, Estimates) else 1)


class _Clock:
    """Tells seconds by phase between `start` and `stop`; is called as a phase begins."""

    def __init__(self) -> None:
        self._changes: list[tuple[Phase, Any]] = []

    def start(self) -> None:
        self._changes = [(Phase.META_GRADIENT, self._now())]

    def __call__(self, phase: Phase) -> None:
        self._changes.append((phase, self._now()))

    def stop(self) -> float:
        """Return the seconds since `start`."""
        self._changes.append((Phase.META_GRADIENT, self._now()))
        self._wait()
        return self._between(self._changes[0][1], self._changes[-1][1])

    def phases(self) -> dict[Phase, float]:
        """Return the seconds of each phase, after `stop`."""
        seconds: dict[Phase, float] = defaultdict(float)
        for (phase, begin), (_, end) in pairwise(self._changes):
            seconds[phase] += self._between(begin, end)
        return seconds

    def _now(self) -> Any:
        return perf_counter()

    def _between(self, begin: Any, end: Any) -> float:
        return float(end - begin)

    def _wait(self) -> None:
        """Wait for the device, whose times are known only then."""


class _CudaClock(_Clock):
    """The same by events in the stream of the work, which need no waiting at each change."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        # Autograd reports phases from its own thread, whose current stream may be another.
        self._stream = torch.cuda.current_stream(device)

    def start(self) -> None:
        self._wait()
        super().start()

    def _now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def _between(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) / 1000

    def _wait(self) -> None:
        torch.cuda.synchronize(self._device)


@dataclass
class Series:
    """One piece of work, and what was measured of it so far; see `Timing`.

    Attributes:
        threads: how many torch is to use.
        parts: how many estimates a call makes, of which the mean counts.
        warm_calls: seconds of the calls before the first sample.
        waited: seconds that the process was kept waiting while samples were taken.
    """

    work: Work
    clock: _Clock
    threads: int
    parts: int = 1
    runs: int = 1
    warm_calls: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    phases: list[dict[Phase, float]] = field(default_factory=list)
    waited: float = 0.0
    notes: list[str] = field(default_factory=list)

    def warm_up(self) -> None:
        """Call the work until it gets no faster, and settle how often a sample calls it."""
        self._run(1)  # does not count: it may have had to compile
        calls = self.warm_calls
        while not settled(calls) and fsum(calls) < _MOST_WARM_UP:
            calls.append(self._run(1))
        # A single call, where each is dear, has none to be held against.
        if len(calls) > 1 and not settled(calls):
            self._note(f"still got faster after {1 + len(calls)} calls to warm up")
        self.runs = max(1, round(LEAST_SECONDS / min(calls)))

    def sample(self) -> None:
        """Take a sample."""
        before = seconds_waited()
        self.seconds.append(self._run(self.runs) / (self.runs * self.parts))
        self.waited += seconds_waited() - before

    def sample_phases(self) -> None:
        """Take a sample of each phase."""
        with watched(self.clock):
            self._run(1)
        phases = self.clock.phases().items()
        self.phases.append({phase: seconds / self.parts for phase, seconds in phases})

    def timing(self, notes: list[str]) -> Timing:
        """Return what was measured."""
        names = list(dict.fromkeys(phase for sample in self.phases for phase in sample))
        phases = {
            str(name): [sample.get(name, 0.0) for sample in self.phases]
            for name in names
            if names != [Phase.META_GRADIENT]  # then no phase was marked
        }
        waiting = waiting_notes(self.waited, fsum(self.seconds) * self.runs * self.parts)
        every = [*notes, *self.notes, *waiting, *sample_notes(self.seconds)]
        return Timing(self.seconds, phases, 1 + len(self.warm_calls), self.runs, every)

    def _run(self, runs: int) -> float:
        self.clock.start()
        for _ in range(runs):
            self.work()
        seconds = self.clock.stop()
        self._check_threads()
        return seconds

    def _check_threads(self) -> None:
        """Put the number of threads right where the work has changed it, and note it."""
        threads = torch.get_num_threads()
        if threads != self.threads:
            torch.set_num_threads(self.threads)
            self._note(f"{threads} threads were set in place of {self.threads}; undone each time")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def settled(calls: list[float]) -> bool:
    """Return whether the calls so far were enough to warm up.

    The best of the last calls, up to three, must not be more than a tenth below the best before,
    and the calls must be as long as a sample, or many.
    """
    if len(calls) < 2 or (len(calls) < _ENOUGH_CALLS and fsum(calls) < LEAST_SECONDS):
        return False
    last = min(3, len(calls) // 2)
    return min(calls[-last:]) >= _FALL * min(calls[:-last])


def _threads() -> int:
    """Return how many threads torch is to use, as set before its import."""
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(threads) if threads.isdecimal() and int(threads) else torch.get_num_threads()


@contextmanager
def _garbage_kept() -> Generator[None]:
    """Restore the garbage collector afterwards.

    What exists now is exempt from collection, since looking through all of torch's objects takes
    a tenth of a second.
    """
    collecting = gc.isenabled()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
