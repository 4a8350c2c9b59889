"""Run a plan, piece of work by piece of work, and journal each result."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.cell import Cell
from harness.matrix.outcome import Status
from harness.matrix.plan import Planned
from harness.running.budget import Budget
from harness.running.executor import Executor, Settings
from harness.running.local import Local
from harness.running.processes import WorkResult
from harness.running.resume import RunSession
from harness.store.journal import Progress, Result

# Beside the work itself: start of a worker and first calls in it, for scoring one cell; least
# samples of small models, for timing one. Seconds; they only shape the estimate of time left.
_SCORE_OVERHEAD, _TIME_OVERHEAD = 0.2, 0.1

_POLL_EVERY = 5.0  # seconds between questions whether the executor is held up

T = TypeVar("T")
E = TypeVar("E")


@dataclass
class _Group:
    """Cells that differ only in their estimator."""

    name: Cell
    reference: Any = None
    cells: list[Cell] = field(default_factory=list)
    unscored: list[Cell] = field(default_factory=list)
    timed: bool = False
    score_weight: float = 1.0
    time_weight: float = 0.1
    failure: WorkResult | None = None


def run(
    planned: list[Planned],
    session: RunSession,
    settings: Settings,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    executor: Executor | None = None,
    budget: Budget | None = None,
) -> int:
    """Measure the planned cells that have no result yet; a failing cell does not stop the others.

    First the float64 reference of each group, then everything except time of each cell, in fresh
    processes side by side; then time, group by group, on devices that do nothing else. Within a
    budget one group after the other, those of each task and model in turns.

    Returns:
        The number of cells that are left to another call.

    Raises:
        UserError: the disk is full, or the executor cannot go on.
        OSError: the journal cannot be written.
    """
    try:
        with Local(settings) if executor is None else nullcontext(executor) as work:
            cells = [plan.cell for plan in planned if not plan.skip]
            whole = _Run(cells, session, settings, on_progress, work, budget)
            with budget.enforced(work) if budget else nullcontext():
                whole.all()
        if left := whole.left():
            session.journal.close()
        else:
            session.journal.end()
        return left
    except BaseException:
        session.journal.close()
        raise


class _Run:
    def __init__(
        self,
        cells: list[Cell],
        session: RunSession,
        settings: Settings,
        on_progress: Callable[[Progress], None],
        executor: Executor,
        budget: Budget | None,
    ) -> None:
        self.journal, self.settings, self.on_progress = session.journal, settings, on_progress
        self.executor, self.budget = executor, budget
        self.writing = threading.Lock()
        self.done = 0.0
        self.good: set[Cell] = set()
        self.groups = self._groups(cells, session)
        self.total = float(sum(len(group.cells) for group in self.groups))

    def all(self) -> None:
        self.executor.start()
        if self.budget:
            for group in _by_turns(self.groups, lambda group: (group.name.task, group.name.model)):
                self.stages([group])
        else:
            self.stages(self.groups)

    def stages(self, groups: list[_Group]) -> None:
        self.references(groups)
        self.total = sum(self._weight(group) for group in self.groups)
        self.scores([group for group in groups if group.reference is not None or group.failure])
        self.timings(groups)

    def left(self) -> int:
        """Return how many cells are not done."""
        return sum(
            len(group.unscored)
            if group.timed
            else sum(cell in group.unscored or cell in self.good for cell in group.cells)
            for group in self.groups
        )

    def references(self, among: list[_Group]) -> None:
        def compute(group: _Group) -> WorkResult | None:
            def work() -> WorkResult:
                result, group.reference = self.executor.reference(group.name)
                return result

            if self.budget is None:
                return work()
            return self.budget.reference(group.name, group.unscored, work)

        wanted = _by_turns(
            (group for group in among if group.unscored), lambda group: group.name.device
        )
        # A chain of pretraining passes and stores all of its checkpoints that are wanted.
        longest: dict[Cell, int] = {}
        for name in (group.name for group in wanted):
            longest[name.chain] = max(longest.get(name.chain, 0), name.trained)
        first = [g for g in wanted if g.name.trained == longest[g.name.chain]]
        for groups in (first, [group for group in wanted if group not in first]):
            for group, result in self._side_by_side(groups, compute):
                if result is None:
                    continue
                group.score_weight = (_SCORE_OVERHEAD + result.seconds) / self.executor.workers
                # One task in float32 rather than all in float64, twice for warming up.
                runs = (self.settings.samples + 2) / (2 * group.name.num_tasks)
                at_once = self.executor.timed_at_once
                group.time_weight = (_TIME_OVERHEAD + runs * result.seconds) / at_once
                if result.outcome.status is not Status.OK:
                    group.failure = result
                self._report(0.0, f"exact gradients of {group.name.task}, depth {group.name.depth}")

    def scores(self, groups: list[_Group]) -> None:
        def compute(item: tuple[_Group, Cell]) -> WorkResult | None:
            group, cell = item

            def work() -> WorkResult:
                return group.failure or self.executor.score(cell, group.reference)

            return self.budget.score(cell, work) if self.budget else work()

        items = [(group, cell) for group in groups for cell in group.unscored]
        items = _by_turns(items, lambda item: item[1].device)
        # Within a budget nothing is begun that then has to wait for a GPU.
        one = self.budget and any(group.name.device != "cpu" for group in groups)
        for (group, cell), result in self._side_by_side(items, compute, 1 if one else None):
            if result is None:
                continue
            self._journal("score", [Result(cell, result.outcome, *(result.value or ()))], result)
            if result.outcome.status is Status.OK:
                self.good.add(cell)
            group.unscored.remove(cell)
            if not group.unscored:
                group.reference = None  # on a cluster, its memory
            self._report(group.score_weight, f"{cell.estimator} on {cell.task}, depth {cell.depth}")

    def timings(self, groups: list[_Group]) -> None:
        waiting = [group for group in groups if not (group.timed or group.unscored)]
        if self.executor.timed_at_once > 1:  # the longest first, so that at the end few wait
            waiting.sort(key=lambda group: -group.time_weight * len(group.cells))
        at_once = self.executor.in_flight if self.executor.timed_at_once > 1 else 1
        for _ in self._side_by_side(waiting, self.times, at_once):
            pass

    def times(self, group: _Group) -> None:
        cells = [cell for cell in group.cells if cell in self.good]
        while cells:
            result = self.time(cells)
            if result is None:
                return
            if result.outcome.status is Status.OK:
                results = [
                    Result(cell, result.outcome, samples, notes)
                    for cell, (samples, notes) in zip(cells, result.value, strict=True)
                ]
                self._journal("time", results, result)
                break
            failed = cells.pop(result.part)  # the others are timed together once more
            self._journal("time", [Result(failed, result.outcome)], result)
        group.timed = True
        self._report(
            group.time_weight * len(group.cells),
            f"timing of {group.name.task}, depth {group.name.depth}",
        )

    def time(self, cells: list[Cell]) -> WorkResult | None:
        def work() -> WorkResult:
            return self.executor.time(cells, self.settings.samples)

        return self.budget.time(cells, work) if self.budget else work()

    def _journal(self, stage: str, results: list[Result], work: WorkResult) -> None:
        limits = self.executor.limits
        with self.writing:
            self.journal.results(
                stage,
                results,
                seconds=work.seconds,
                limits={"seconds": limits.seconds, "memory": limits.memory},
                machine=work.machine,
            )

    def _report(self, more: float, doing: str) -> None:
        with self.writing:
            self.done += more
            if self.budget:
                progress = Progress(self.budget.spent, self.budget.seconds, doing)
            else:
                progress = Progress(self.done, self.total, doing)
            self.journal.progress(progress)
        self.on_progress(progress)

    def _side_by_side(
        self, items: Iterable[T], compute: Callable[[T], E], at_once: int | None = None
    ) -> Iterator[tuple[T, E]]:
        pool = ThreadPoolExecutor(at_once or self.executor.in_flight)
        try:
            futures = {pool.submit(compute, item): item for item in items}
            left: set[Future[E]] = set(futures)
            polled = time.monotonic()
            while left:
                done, left = wait(left, _POLL_EVERY, return_when=FIRST_COMPLETED)
                for future in done:
                    yield futures[future], future.result()
                if time.monotonic() - polled >= _POLL_EVERY:
                    polled = time.monotonic()
                    if (obstacle := self.executor.obstacle()) and not done:
                        self._report(0.0, obstacle)
        except BaseException:
            self.executor.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _weight(self, group: _Group) -> float:
        timing = 0.0 if group.timed else group.time_weight * len(group.cells)
        return group.score_weight * len(group.unscored) + timing

    def _groups(self, cells: list[Cell], session: RunSession) -> list[_Group]:
        groups: dict[Cell, _Group] = {}
        for cell in cells:
            group = groups.setdefault(cell.group, _Group(cell.group))
            group.cells.append(cell)
            scored = session.stage(cell.id, "score", self.executor.limits)
            if scored is None:
                group.unscored.append(cell)
            elif scored.status is Status.OK:
                self.good.add(cell)
        for group in groups.values():
            group.timed = not self.settings.samples or (
                not group.unscored
                and all(
                    session.stage(cell.id, "time", self.executor.limits)
                    for cell in group.cells
                    if cell in self.good
                )
            )
        return list(groups.values())


def _by_turns(items: Iterable[T], device: Callable[[T], Hashable]) -> list[T]:
    """Return items in turns: the first of each device, say, so that none waits for work, ..."""
    counted: Counter[Hashable] = Counter()
    places: list[tuple[int, T]] = []
    for item in items:
        places.append((counted[device(item)], item))
        counted[device(item)] += 1
    return [item for _, item in sorted(places, key=lambda place: place[0])]
