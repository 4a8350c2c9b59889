"""Runs a plan in worker processes and journals each piece of work as it ends."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessFuture
from pebble.concurrent import process

from harness import worker
from harness.cell import Cell
from harness.environment import environment
from harness.journal import Journal, Progress
from harness.outcome import Outcome, Status
from harness.plan import Planned
from harness.probes.bias import Samples
from harness.processes import fresh_processes, violent_end

# Beside the work itself: start of a worker and first calls in it, for scoring one cell; least
# samples of small models, for timing one. Seconds; they only shape the estimate of time left.
_SCORE_OVERHEAD, _TIME_OVERHEAD = 0.4, 0.12

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        jobs: worker processes side by side; timing always has the machine for itself.
        samples: time samples of each cell, 6 or more for a rank test.
        time_limit: seconds after which a piece of work is stopped.
        plugins: modules that workers import first; see `load_plugins`.
    """

    jobs: int = min(8, multiprocessing.cpu_count())
    samples: int = 7
    time_limit: float = 3600.0
    plugins: tuple[str, ...] = ()


@dataclass
class _Result:
    outcome: Outcome
    value: Any = None
    seconds: float = 0.0


@dataclass
class _Group:
    name: Cell
    cells: list[Cell] = field(default_factory=list)
    reference: Path = Path()
    score_weight: float = 1.0
    time_weight: float = 0.0
    failure: Outcome | None = None


def run(
    planned: list[Planned],
    journal: Journal,
    settings: Settings,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Measures every planned cell; a failing one is recorded and the rest goes on.

    First the float64 reference of each group, then everything but time of each cell, in fresh
    processes side by side; then time, group by group, with the machine for itself.

    Args:
        planned: cells, and which to skip for which reason.
        journal: where each result goes as soon as it is there.
        settings: how to run.
        tell: called after each piece of work.
    """
    journal.start(environment(), cells=len(planned))
    for plan in planned:
        if plan.skip:
            journal.result(plan.cell, "score", Outcome(Status.SKIPPED, plan.skip))
    with tempfile.TemporaryDirectory(prefix="metagrad-") as scratch:
        groups = _groups([plan.cell for plan in planned if not plan.skip], Path(scratch))
        _Run(groups, journal, settings, tell).all()
    journal.end()


class _Run:
    def __init__(
        self,
        groups: list[_Group],
        journal: Journal,
        settings: Settings,
        tell: Callable[[Progress], None],
    ) -> None:
        self.groups, self.journal, self.settings, self.tell = groups, journal, settings, tell
        self.done = 0.0
        self.total = float(sum(len(group.cells) for group in groups))
        self.good: set[Cell] = set()
        self.running: set[ProcessFuture[Any]] = set()

    def all(self) -> None:
        self._in_process(os.getpid)  # the fork server imports torch once, before any clock runs
        self.references()
        self.total = sum(
            (group.score_weight + group.time_weight) * len(group.cells) for group in self.groups
        )
        self.scores()
        for group in self.groups:
            self.times(group)

    def references(self) -> None:
        def compute(group: _Group) -> _Result:
            return self._in_process(worker.reference, group.name, group.reference)

        for group, result in self._side_by_side(self.groups, compute):
            group.score_weight = (_SCORE_OVERHEAD + result.seconds) / self.settings.jobs
            # One task in float32 rather than all in float64, twice for warming up.
            runs = (self.settings.samples + 2) / (2 * group.name.tasks)
            group.time_weight = _TIME_OVERHEAD + runs * result.seconds
            if result.outcome.status is not Status.OK:
                group.failure = result.outcome
            self._tell(0.0, f"exact gradients of {group.name.task}, depth {group.name.depth}")

    def scores(self) -> None:
        def compute(item: tuple[_Group, Cell]) -> _Result:
            group, cell = item
            if group.failure:
                return _Result(group.failure)
            return self._in_process(worker.score, cell, group.reference)

        items = [(group, cell) for group in self.groups for cell in group.cells]
        for (group, cell), result in self._side_by_side(items, compute):
            self.journal.result(cell, "score", result.outcome, result.value)
            if result.outcome.status is Status.OK:
                self.good.add(cell)
            self._tell(group.score_weight, f"{cell.estimator} on {cell.task}, depth {cell.depth}")

    def times(self, group: _Group) -> None:
        cells = [cell for cell in group.cells if cell in self.good]
        if cells and not self._times_together(cells):
            for cell in cells:  # so that the one that fails takes no other down
                self._times_together([cell], journal_failure=True)
        self._tell(
            group.time_weight * len(group.cells),
            f"timing of {group.name.task}, depth {group.name.depth}",
        )

    def _times_together(self, cells: list[Cell], *, journal_failure: bool = False) -> bool:
        limit = self.settings.time_limit * len(cells)
        result = self._in_process(worker.time_group, cells, self.settings.samples, limit=limit)
        good = result.outcome.status is Status.OK
        if good or journal_failure:
            measured: list[Samples] = result.value or [{} for _ in cells]
            for cell, samples in zip(cells, measured, strict=True):
                self.journal.result(cell, "time", result.outcome, samples)
        return good

    def _tell(self, more: float, doing: str) -> None:
        self.done += more
        progress = Progress(self.done, self.total, doing)
        self.journal.progress(progress)
        self.tell(progress)

    def _side_by_side(
        self, items: list[T], compute: Callable[[T], _Result]
    ) -> Iterator[tuple[T, _Result]]:
        pool = ThreadPoolExecutor(self.settings.jobs)
        try:
            futures = {pool.submit(compute, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for remote in list(self.running):  # some are left only if we were interrupted
                remote.cancel()  # type: ignore[no-untyped-call]
            pool.shutdown(wait=True)

    def _in_process(
        self, function: Callable[..., Any], *arguments: Any, limit: float | None = None
    ) -> _Result:
        limit = limit or self.settings.time_limit
        start = time.monotonic()
        # pebble reads the context from `context` though it documents `mp_context`, which it
        # ignores, and then forks this very process.
        options: dict[str, Any] = {"context": fresh_processes(), "mp_context": fresh_processes()}
        remote = process(timeout=limit, daemon=False, **options)(worker.call)
        future = remote(self.settings.plugins, function, *arguments)
        self.running.add(future)
        try:
            outcome, value = future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
        except Exception as error:
            outcome, value = violent_end(error, limit), None
        finally:
            self.running.discard(future)
        return _Result(outcome, value, time.monotonic() - start)


def _groups(cells: list[Cell], scratch: Path) -> list[_Group]:
    groups: dict[Cell, _Group] = {}
    for cell in cells:
        group = groups.setdefault(cell.group, _Group(cell.group))
        group.cells.append(cell)
    for index, group in enumerate(groups.values()):
        group.reference = scratch / f"{index}.pt"
    return list(groups.values())
