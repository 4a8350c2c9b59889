"""What every executor offers to the runner, and the settings of a run."""

from dataclasses import dataclass
from typing import Any, Protocol

from harness.cell import Cell
from harness.running.processes import Limits, WorkResult, usable_processors, worker_memory


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        jobs: worker processes side by side, of which one at a time uses each GPU; on one machine
            nothing else runs during timing.
        samples: time samples of each cell, 6 or more for a rank test; 0 for no times.
        time_limit: seconds that a piece of work may take: a reference, a score, one time sample.
        memory_limit: bytes of resident memory that a worker may take; None: an equal share of most
            of the machine's.
        plugins: modules that workers import first; see `load_plugins`.
        check: whether each group's problems are checked, and refused if estimates would be wrong.
    """

    jobs: int = usable_processors(most=8)
    samples: int = 7
    time_limit: float = 3600.0
    memory_limit: float | None = None
    plugins: tuple[str, ...] = ()
    check: bool = True

    @property
    def limits(self) -> Limits:
        """Limits of one piece of work on this machine."""
        return Limits(self.time_limit, self.memory_limit or worker_memory(self.jobs))


class Executor(Protocol):
    """Does pieces of work, each in a fresh process; may be called from many threads.

    Attributes:
        limits: of one piece of work.
        where: a short description of a cluster; "" for this machine.
        workers: how many pieces of work are done side by side.
        in_flight: how many pieces of work to submit at a time.
        timed_at_once: how many groups are timed side by side.
    """

    limits: Limits
    where: str
    workers: int
    in_flight: int
    timed_at_once: int

    def missing(self, device: str) -> str | None:
        """Return why nobody here has a device; None if somebody does."""

    def start(self) -> None:
        """Do what takes long before the first piece of work."""

    def reference(self, group: Cell) -> tuple[WorkResult, Any]:
        """Compute what all cells of a group are scored against; see `measures.reference`.

        Returns:
            How that ended, and what `score` takes as the reference.
        """

    def score(self, cell: Cell, reference: Any) -> WorkResult:
        """Measure everything of a cell except time; see `measures.score`."""

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        """Time cells in turns, on a device that does nothing else; see `measures.time_group`."""

    def stop(self) -> None:
        """End all work now; nothing may be submitted afterwards."""

    def obstacle(self) -> str:
        """Return in a few words why no work is being done at present; "" if it is."""
