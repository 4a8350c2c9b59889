"""A run within a budget of time: no piece of work is begun that would not be done by its end."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from harness.cell import Cell
from harness.running.estimate import CostModel, NotTimed
from harness.running.executor import Executor
from harness.running.processes import Stopped, WorkResult

_MARGIN = 1.25  # estimates that work of the same kind has corrected are rarely further off
_ENDING = 2.0  # seconds for the table at the end, at least
_MOST_ENDING = 0.2  # of the whole


class Budget:
    """Time for a run, and what pieces of work would take of it.

    Attributes:
        seconds: of the whole run.
        begun: how many pieces of work were begun.
        refused: seconds of the least piece of work that did not fit; infinite if there was none.
    """

    def __init__(self, seconds: float, costs: CostModel, spent: float = 0.0) -> None:
        self.seconds, self._costs = seconds, costs
        self._since = time.monotonic() - spent
        # The end imports pandas as the beginning has imported torch.
        self._ending = min(max(_ENDING, spent), _MOST_ENDING * seconds)
        self.begun, self.refused = 0, math.inf
        self._expected: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._measured: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._lock = threading.RLock()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._since

    @property
    def left(self) -> float:
        """Seconds in which work may be done."""
        return self.seconds - self._ending - self.spent

    @contextmanager
    def enforced(self, executor: Executor) -> Generator[None]:
        """Stop what is still at work when the time is over: estimates may be wrong."""
        timer = threading.Timer(max(0.0, self.left), executor.stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Stopped:
            if self.left > 0:
                raise
        finally:
            timer.cancel()

    def reference(
        self, group: Cell, unscored: Sequence[Cell], work: Callable[[], WorkResult]
    ) -> WorkResult | None:
        """Compute a reference if it fits together with a score.

        The training before it may be stopped, since it goes on from its checkpoints.
        """
        if self.left <= 0:
            return None
        score = min(self._needed("score", [cell]) for cell in unscored)
        return self._within("reference", [group], work, score)

    def score(self, cell: Cell, work: Callable[[], WorkResult]) -> WorkResult | None:
        """Score a cell if it fits."""
        return self._within("score", [cell], work)

    def time(self, cells: Sequence[Cell], work: Callable[[], WorkResult]) -> WorkResult | None:
        """Time cells if it fits."""
        return self._within("time", cells, work)

    def _within(
        self, stage: str, cells: Sequence[Cell], work: Callable[[], WorkResult], more: float = 0.0
    ) -> WorkResult | None:
        if self.left <= 0:
            return None
        if (needed := self._needed(stage, cells) + more) > self.left:
            self.refused = min(self.refused, needed)
            return None
        self.begun += 1
        result = work()
        if not cells[0].trained or stage != "reference":  # whose training is not expected
            with self._lock:
                for key in _keys(stage, cells[0]):
                    self._expected[key] += self._seconds(stage, cells)
                    self._measured[key] += result.seconds
        return result

    def _needed(self, stage: str, cells: Sequence[Cell]) -> float:
        """Return the seconds that a piece of work is given: corrected by what others took."""
        with self._lock:  # nothing is timed twice
            seconds = _MARGIN * self._seconds(stage, cells)
            for key in _keys(stage, cells[0]):
                if self._expected[key]:
                    ratio = self._measured[key] / self._expected[key]
                    # A reference that took less than expected was in the cache.
                    return seconds * (max(1.0, ratio) if stage == "reference" else ratio)
        return seconds

    def _seconds(self, stage: str, cells: Sequence[Cell]) -> float:
        self._costs.most = max(0.1, self.left)
        try:
            if stage == "time":
                return self._costs.times(cells)
            (cell,) = cells
            return self._costs.score(cell) if stage == "score" else self._costs.reference(cell)
        except NotTimed:  # so the work itself will fail as soon, unless the time was too short
            return 0.0 if self.left > 0 else math.inf


def _keys(stage: str, cell: Cell) -> list[tuple[str, ...]]:
    """Return what estimates are corrected by: the same task, model and device, or else any."""
    return [(stage, cell.task, cell.model, cell.device), (stage,)]
