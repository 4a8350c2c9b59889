"""Begin a run or go on with an interrupted one."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import code_state, environment
from harness.matrix.outcome import Outcome, Status
from harness.matrix.plan import Planned
from harness.running.executor import Settings
from harness.running.processes import Limits
from harness.store.journal import Journal, Result
from harness.store.runs import CellResult, StageResult, read_run
from harness.store.session import Previous, digest, find_previous, starts

_FINAL = (Status.OK, Status.SKIPPED, Status.DIVERGED)  # another try would end the same way


@dataclass(frozen=True)
class RunSession:
    """A run that is open for writing.

    Attributes:
        journal: of the run.
        finished: results that are in it already, by cell id.
        lines: messages for the user.
    """

    journal: Journal
    finished: dict[str, CellResult] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def stage(self, cell_id: str, stage: str, limits: Limits) -> StageResult | None:
        """Return the result of a stage of a cell, unless it is worth another try.

        It is if the cause was transient, or if the limit that ended it is higher now.
        """
        known = self.finished.get(cell_id)
        result = known.stages.get(stage) if known else None
        if result is None or result.transient:
            return None
        raised = {
            Status.TIMEOUT: limits.seconds > result.limits.get("seconds", 0.0),
            Status.OUT_OF_MEMORY: limits.memory > result.limits.get("memory", 0.0),
        }
        return None if raised.get(result.status) else result


def begin(
    store: Path,
    planned: Sequence[Planned],
    *,
    samples: int,
    plugins: tuple[str, ...] = (),
    check: bool = True,
    fresh: bool = False,
) -> RunSession:
    """Open the newest interrupted run of the same plan, code and machine, or a new one.

    Raises:
        OSError: the folder cannot be written.
    """
    current = environment(store, plugins)
    identity = _identity(current, planned, samples, check=check)
    previous: Previous[Journal] = Previous()
    if not fresh:
        previous = find_previous(
            *(store / "runs", Journal, identity),
            has_ended=lambda path: read_run(path).ended,
            on_busy=lambda path: f"Another run of the same cells is at work on {path}.",
        )
    if journal := previous.journal:
        run = read_run(journal.path)
        session = RunSession(journal, {cell.id: cell for cell in run.cells}, previous.lines)
        if (commit := run.environment["commit"]) != current["commit"]:
            session.lines.append(
                f"It began at commit {commit[:8] or 'unknown'}, with the same code."
            )
        journal.resume(current)
    else:
        session = RunSession(Journal.create(store), lines=previous.lines)
        session.journal.start(current, cells=len(planned), **identity)
    skipped = [
        Result(each.cell, Outcome(Status.SKIPPED, each.skip))
        for each in planned
        if each.skip and each.cell.id not in session.finished
    ]
    if skipped:
        session.journal.results("plan", skipped)
    return session


def finished(
    store: Path, planned: Sequence[Planned], settings: Settings, *, well: bool = True
) -> Path | None:
    """Return the newest run of the same plan, code and machine that ended; `well`: all well."""
    current = environment(store, settings.plugins)
    identity = _identity(current, planned, settings.samples, check=settings.check)
    for path, start in starts(store / "runs"):
        with suppress(OSError, ValueError):
            if identity.items() <= start.items():
                run = read_run(path)
                if run.ended and not (well and any(c.status not in _FINAL for c in run.cells)):
                    return path
    return None


def _identity(
    environment: dict[str, Any], planned: Sequence[Planned], samples: int, *, check: bool
) -> dict[str, str]:
    """Return digests of what is measured, and of the code and machine that do it."""
    cells = sorted([each.cell.id, bool(each.skip)] for each in planned)
    return {
        "plan": digest([samples, cells, check]),
        "state": digest([code_state(environment), environment["fingerprint"]]),
    }
