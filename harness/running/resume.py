"""Begins a run, or goes on with one that was interrupted."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import code_state, environment
from harness.matrix.outcome import Outcome, Status
from harness.matrix.plan import Planned
from harness.running.processes import Limits
from harness.store.journal import Journal, Result
from harness.store.runs import CellResult, StageResult, first_event, parsed, read_run

_WELL = (Status.OK, Status.SKIPPED, Status.DIVERGED)  # another time would be no different


@dataclass(frozen=True)
class RunSession:
    """Where a run begins.

    Attributes:
        journal: to which results go.
        finished: what is there already, by cell id; empty for a new run.
        told: what the user should know, a line each.
    """

    journal: Journal
    finished: dict[str, CellResult] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def stage(self, cell_id: str, stage: str, limits: Limits) -> StageResult | None:
        """Returns how a stage of a cell ended, if it need not be measured again.

        It is worth a second try when the cause was transient, or when the limit that ended it is
        higher now.
        """
        known = self.finished.get(cell_id)
        result = known.stages.get(stage) if known else None
        if result is None:
            return None
        had = result.limits
        again = {
            Status.TIMEOUT: limits.seconds > had.get("seconds", 0.0),
            Status.OUT_OF_MEMORY: limits.memory > had.get("memory", 0.0),
        }
        return None if result.transient or again.get(result.status) else result


def begin(
    store: Path,
    planned: Sequence[Planned],
    *,
    samples: int,
    plugins: tuple[str, ...] = (),
    fresh: bool = False,
) -> RunSession:
    """Opens the newest interrupted run of the same plan, code and machine, or else a new one.

    Raises:
        OSError: the folder cannot be written.
    """
    made_with = environment(store, plugins)
    plan, state = _identity(made_with, planned, samples)
    found, told = (None, []) if fresh else _interrupted(store, plan, state)
    if found:
        beginning = _going_on(found, made_with["commit"])
        found.resume(made_with)
    else:
        beginning = RunSession(Journal.create(store), told=told)
        beginning.journal.start(made_with, cells=len(planned), plan=plan, state=state)
    skipped = [
        Result(each.cell, Outcome(Status.SKIPPED, each.skip))
        for each in planned
        if each.skip and each.cell.id not in beginning.finished
    ]
    if skipped:
        beginning.journal.results("plan", skipped)
    return beginning


def finished(
    store: Path, planned: Sequence[Planned], *, samples: int, plugins: tuple[str, ...] = ()
) -> Path | None:
    """Returns the newest run of the same plan, code and machine that went well, if there is one."""
    plan, state = _identity(environment(store, plugins), planned, samples)
    for path in sorted((store / "runs").glob("*.jsonl"), reverse=True):
        with suppress(OSError, ValueError):
            start = first_event(path)
            if (start.get("plan"), start.get("state")) != (plan, state):
                continue
            run = read_run(path)
            if run.ended and all(cell.status in _WELL for cell in run.cells):
                return path
    return None


def _identity(
    made_with: dict[str, Any], planned: Sequence[Planned], samples: int
) -> tuple[str, str]:
    """Returns digests of what is measured, and of the code and machine that do it."""
    plan = _digest([samples, sorted([each.cell.id, bool(each.skip)] for each in planned)])
    return plan, _digest([code_state(made_with), made_with["fingerprint"]])


def _going_on(journal: Journal, commit: str) -> RunSession:
    aside = journal.set_aside(lambda line: parsed(line) is not None)
    run = read_run(journal.path)
    count = len(run.measured)
    told = [f"Going on with {journal.path}, which was interrupted after {count} cells."]
    if aside:
        told.append(f"It had broken or torn lines, which are set aside in {aside}.")
    began = run.environment["commit"]
    if began != commit:
        told.append(f"It began at commit {began[:8] or 'unknown'}, with the same code.")
    return RunSession(journal, {cell.id: cell for cell in run.cells}, told)


def _interrupted(store: Path, plan: str, state: str) -> tuple[Journal | None, list[str]]:
    """Opens the newest run of this plan and state of code and machine, if it has no end.

    Where there is none, the user may wonder why, and is told.
    """
    told: list[str] = []
    for path in sorted((store / "runs").glob("*.jsonl"), reverse=True):
        with suppress(OSError):
            start = first_event(path)
            if start.get("plan") != plan:
                continue
            try:
                journal = Journal(path, new=False)
            except BlockingIOError:
                told.append(f"Another run of the same cells is at work on {path}.")
                continue
            try:
                ended = read_run(path).ended
            except ValueError as error:
                told.append(f"{path} was interrupted, and cannot be read: {error}.")
            else:
                if not ended and start.get("state") == state:
                    return journal, []
                if not ended:
                    told.append(f"{path} was interrupted with other code, packages or machine.")
                elif start.get("state") == state:
                    journal.close()
                    break
            journal.close()
    return None, told[:1]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
