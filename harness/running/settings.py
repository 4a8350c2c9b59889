"""How a plan is to be run."""

from dataclasses import dataclass

from harness.running.processes import Limits, usable_processors, worker_memory


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        jobs: worker processes side by side, of which one at a time is on each card; on one
            machine, timing always has it for itself.
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
        """What one piece of work may take on this machine."""
        return Limits(self.time_limit, self.memory_limit or worker_memory(self.jobs))
