"""What the runner asks of whoever does the work."""

from dataclasses import dataclass
from typing import Any, Protocol

from harness.cell import Cell
from harness.running.processes import Limits, WorkResult


class Executor(Protocol):
    """Does pieces of work, each in a fresh process; to be called from many threads.

    Attributes:
        limits: what one piece of work may take.
    """

    limits: Limits

    @property
    def workers(self) -> int:
        """How many pieces of work are done side by side."""

    @property
    def in_flight(self) -> int:
        """How many pieces of work are to be asked for at a time."""

    @property
    def timed_at_once(self) -> int:
        """How many groups are timed side by side."""

    def missing(self, device: str) -> str | None:
        """Tells that nobody here has a device; None when somebody does."""

    def ready(self) -> None:
        """Gets ready to work: afterwards, what takes time is the work.

        Raises:
            UserError: nobody can do any.
        """

    def reference(self, group: Cell) -> tuple[WorkResult, Any]:
        """Computes what all cells of a group are scored against; see `measures.reference`.

        Returns:
            How that ended, and what `score` wants as the reference.
        """

    def score(self, cell: Cell, reference: Any) -> WorkResult:
        """Measures everything of a cell but time; see `measures.score`."""

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        """Times cells in turns, on a device that does nothing else; see `measures.time_group`."""

    def stop(self) -> None:
        """Ends all work at once; nothing is asked for afterwards."""

    def trouble(self) -> str:
        """Tells what keeps the work from going on at the moment, in a few words; "" if nothing."""


@dataclass(frozen=True)
class Opened:
    """An executor that is open.

    Attributes:
        executor: it.
        where: it, in a few words, for a cluster.
        script: that SLURM is given for each job; "" if it is not asked.
    """

    executor: Executor
    where: str = ""
    script: str = ""
