"""Begins a run, or goes on with one that was interrupted."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import code_state, environment
from harness.journal import Journal, Result
from harness.outcome import Outcome, Status
from harness.plan import Planned
from harness.processes import Limits
from harness.runs import CellResult, StageResult, first_event, read_run

_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")


@dataclass(frozen=True)
class Beginning:
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

        It is worth a second try when it was ended from outside: by a signal, or by a limit that
        is higher now.

        Args:
            cell_id: the cell.
            stage: "score" or "time".
            limits: those of now.
        """
        known = self.finished.get(cell_id)
        result = known.stages.get(stage) if known else None
        if result is None:
            return None
        had = result.limits
        again = {
            Status.TIMEOUT: limits.seconds > had.get("seconds", 0.0),
            Status.OUT_OF_MEMORY: limits.memory > had.get("memory", 0.0),
            Status.CRASHED: any(f" {name}" in result.reason for name in _FROM_OUTSIDE),
        }
        return None if again.get(result.status) else result


def begin(
    store: Path,
    planned: Sequence[Planned],
    *,
    samples: int,
    plugins: tuple[str, ...] = (),
    fresh: bool = False,
) -> Beginning:
    """Opens the newest interrupted run of the same plan, code and machine, or else a new one.

    Args:
        store: the folder of results; made if missing.
        planned: the plan.
        samples: time samples of each cell.
        plugins: modules that workers import.
        fresh: begin a new run in any case.

    Raises:
        OSError: the folder cannot be written.
    """
    made_with = environment(store, plugins)
    key = _key(planned, samples, made_with)
    found = None if fresh else _interrupted(store, key)
    if found:
        beginning = _going_on(found)
        found.resume(made_with)
    else:
        beginning = Beginning(Journal.create(store))
        beginning.journal.start(made_with, cells=len(planned), key=key)
    skipped = [
        Result(plan.cell, Outcome(Status.SKIPPED, plan.skip))
        for plan in planned
        if plan.skip and plan.cell.id not in beginning.finished
    ]
    if skipped:
        beginning.journal.results("plan", skipped)
    return beginning


def _going_on(journal: Journal) -> Beginning:
    torn = journal.set_torn_line_aside()
    run = read_run(journal.path)
    count = len(run.measured)
    told = [f"Going on with {journal.path}, which was interrupted after {count} cells."]
    if torn:
        told.append(f"Its last line was torn, and is set aside in {torn}.")
    return Beginning(journal, {cell.id: cell for cell in run.cells}, told)


def _key(planned: Sequence[Planned], samples: int, made_with: dict[str, Any]) -> str:
    """Digests what two runs must share for one to go on with the other."""
    parts = [
        samples,
        code_state(made_with),
        made_with["fingerprint"],
        sorted(plan.cell.id + plan.skip for plan in planned),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _interrupted(store: Path, key: str) -> Journal | None:
    """Opens the newest run with this key that has no end, unless another process writes to it."""
    for path in sorted((store / "runs").glob("*.jsonl"), reverse=True):
        with suppress(OSError, ValueError):
            if first_event(path).get("key") != key:
                continue
            journal = Journal(path, new=False)
            if not read_run(path).ended:
                return journal
            journal.close()
            return None
    return None
