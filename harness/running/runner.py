"""Runs a plan in worker processes and journals each piece of work as it ends."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.cell import Cell
from harness.outcome import Status
from harness.plan import Planned
from harness.results.journal import Progress, Result
from harness.running import measures
from harness.running.processes import (
    Ending,
    Limits,
    in_worker,
    refuse_full_disk,
    usable_processors,
    worker_memory,
)
from harness.running.resume import Beginning

# Beside the work itself: start of a worker and first calls in it, for scoring one cell; least
# samples of small models, for timing one. Seconds; they only shape the estimate of time left.
_SCORE_OVERHEAD, _TIME_OVERHEAD = 0.2, 0.1

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        jobs: worker processes side by side; timing always has the machine for itself.
        samples: time samples of each cell, 6 or more for a rank test; 0 to take no times.
        time_limit: seconds after which a piece of work is stopped: a reference, a score, one
            sample of time.
        memory_limit: bytes of resident memory beyond which a worker is stopped; an equal share
            of most of the machine's when None.
        plugins: modules that workers import first; see `load_plugins`.
    """

    jobs: int = usable_processors(most=8)
    samples: int = 7
    time_limit: float = 3600.0
    memory_limit: float | None = None
    plugins: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        """What one piece of work may take."""
        return Limits(self.time_limit, self.memory_limit or worker_memory(self.jobs))


@dataclass
class _Group:
    """Cells that differ in their estimator alone."""

    name: Cell
    reference: Path
    cells: list[Cell] = field(default_factory=list)
    unscored: list[Cell] = field(default_factory=list)
    timed: bool = False
    score_weight: float = 1.0
    time_weight: float = 0.1
    failure: Ending | None = None


def run(
    planned: list[Planned],
    beginning: Beginning,
    settings: Settings,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Measures what is planned and not there yet; a failing cell is recorded, the rest goes on.

    First the float64 reference of each group, then everything but time of each cell, in fresh
    processes side by side; then time, group by group, with the machine for itself.

    Args:
        planned: cells, and which to skip for which reason.
        beginning: where each result goes as soon as it is there, and what is there already.
        settings: how to run.
        tell: called after each piece of work.

    Raises:
        OptionError: the disk is full.
        OSError: the journal cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="metagrad-") as scratch:
            cells = [plan.cell for plan in planned if not plan.skip]
            _Run(cells, Path(scratch), beginning, settings, tell).all()
        beginning.journal.end()
    except BaseException:
        beginning.journal.close()
        raise


class _Run:
    def __init__(
        self,
        cells: list[Cell],
        scratch: Path,
        beginning: Beginning,
        settings: Settings,
        tell: Callable[[Progress], None],
    ) -> None:
        self.journal, self.settings, self.tell = beginning.journal, settings, tell
        self.limits = settings.limits
        self.stop = threading.Event()
        self.done = 0.0
        self.good: set[Cell] = set()
        self.groups = self._groups(cells, scratch, beginning)
        self.total = float(sum(len(group.cells) for group in self.groups))

    def all(self) -> None:
        self._work(os.getpid)  # once it has imported torch, clocks may run
        self.references()
        self.total = sum(self._weight(group) for group in self.groups)
        self.scores()
        for group in self.groups:
            if not group.timed:
                self.times(group)

    def references(self) -> None:
        def compute(group: _Group) -> Ending:
            return self._work(measures.reference, group.name, group.reference)

        wanted = [group for group in self.groups if group.unscored]
        # One chain of meta-training passes all checkpoints that are wanted of it, and keeps them.
        longest: dict[Cell, int] = {}
        for name in (group.name for group in wanted):
            longest[name.chain] = max(longest.get(name.chain, 0), name.trained)
        first = [g for g in wanted if g.name.trained == longest[g.name.chain]]
        for groups in (first, [group for group in wanted if group not in first]):
            for group, ending in self._side_by_side(groups, compute):
                group.score_weight = (_SCORE_OVERHEAD + ending.seconds) / self.settings.jobs
                # One task in float32 rather than all in float64, twice for warming up.
                runs = (self.settings.samples + 2) / (2 * group.name.tasks)
                group.time_weight = _TIME_OVERHEAD + runs * ending.seconds
                if ending.outcome.status is not Status.OK:
                    group.failure = ending
                self._tell(0.0, f"exact gradients of {group.name.task}, depth {group.name.depth}")

    def scores(self) -> None:
        def compute(item: tuple[_Group, Cell]) -> Ending:
            group, cell = item
            return group.failure or self._work(measures.score, cell, group.reference)

        items = [(group, cell) for group in self.groups for cell in group.unscored]
        for (group, cell), ending in self._side_by_side(items, compute):
            self._journal("score", [Result(cell, ending.outcome, ending.value or {})], ending)
            if ending.outcome.status is Status.OK:
                self.good.add(cell)
            self._tell(group.score_weight, f"{cell.estimator} on {cell.task}, depth {cell.depth}")

    def times(self, group: _Group) -> None:
        cells = [cell for cell in group.cells if cell in self.good]
        while cells:
            ending = self._work(measures.time_group, cells, self.settings.samples)
            if ending.outcome.status is Status.OK:
                results = [
                    Result(cell, ending.outcome, samples, notes)
                    for cell, (samples, notes) in zip(cells, ending.value, strict=True)
                ]
                self._journal("time", results, ending)
                break
            # The one that went wrong takes no other down: those are timed together once more.
            failed = cells.pop(ending.part)
            self._journal("time", [Result(failed, ending.outcome)], ending)
        self._tell(
            group.time_weight * len(group.cells),
            f"timing of {group.name.task}, depth {group.name.depth}",
        )

    def _journal(self, stage: str, results: list[Result], ending: Ending) -> None:
        self.journal.results(
            stage,
            results,
            seconds=ending.seconds,
            limits={"seconds": self.limits.seconds, "memory": self.limits.memory},
        )

    def _tell(self, more: float, doing: str) -> None:
        self.done += more
        progress = Progress(self.done, self.total, doing)
        self.journal.progress(progress)
        self.tell(progress)

    def _side_by_side(
        self, items: list[T], compute: Callable[[T], Ending]
    ) -> Iterator[tuple[T, Ending]]:
        pool = ThreadPoolExecutor(self.settings.jobs)
        try:
            futures = {pool.submit(compute, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            self.stop.set()  # some are at work only if we were interrupted
            pool.shutdown(wait=True, cancel_futures=True)
            self.stop.clear()

    def _work(self, function: Callable[..., Any], *arguments: Any) -> Ending:
        ending = in_worker(
            function,
            *arguments,
            limits=self.limits,
            plugins=self.settings.plugins,
            stop=self.stop,
        )
        refuse_full_disk(ending)
        return ending

    def _weight(self, group: _Group) -> float:
        timing = 0.0 if group.timed else group.time_weight * len(group.cells)
        return group.score_weight * len(group.unscored) + timing

    def _groups(self, cells: list[Cell], scratch: Path, beginning: Beginning) -> list[_Group]:
        groups: dict[Cell, _Group] = {}
        for cell in cells:
            path = scratch / f"{len(groups)}.pt"
            group = groups.setdefault(cell.group, _Group(cell.group, path))
            group.cells.append(cell)
            scored = beginning.stage(cell.id, "score", self.limits)
            if scored is None:
                group.unscored.append(cell)
            elif scored.status is Status.OK:
                self.good.add(cell)
        for group in groups.values():
            group.timed = not self.settings.samples or (
                not group.unscored
                and all(
                    beginning.stage(cell.id, "time", self.limits)
                    for cell in group.cells
                    if cell in self.good
                )
            )
        return list(groups.values())
