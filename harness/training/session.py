"""Begins a meta-training, goes on with one that was stopped, or finds it done."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estimators.base.errors import OptionError
from harness.environment import code_state, environment
from harness.matrix.metrics import Samples
from harness.store.runs import first_event, parsed
from harness.store.trainings import FOLDER, TrainingJournal
from harness.tasks import TASKS
from harness.training.config import TrainingConfig


@dataclass(frozen=True)
class TestResult:
    """How a training ended that came to its end.

    Attributes:
        step: how many steps it took.
        best_step: whose parameters were tested, those that validated best.
        test: samples by metric, a number for each test task.
    """

    step: int
    best_step: int
    test: Samples


@dataclass(frozen=True)
class Session:
    """Where a training is written to.

    Attributes:
        journal: for its evaluations; None where it has ended.
        path: of the journal.
        digest: tells this training, its code and machine from others.
        told: what the user should know, a line each.
        goes_on: what it goes on with, which the journal is to be told; None of a new one.
        end: how it ended, or why it could not go on.
    """

    journal: TrainingJournal | None
    path: Path
    digest: str
    told: list[str] = field(default_factory=list)
    goes_on: dict[str, Any] | None = None
    end: TestResult | str | None = None

    @property
    def checkpoint(self) -> Path:
        """The file for where it is."""
        return self.path.with_suffix(".pt")


def begin(
    store: Path, recipe: TrainingConfig, *, plugins: tuple[str, ...] = (), fresh: bool = False
) -> Session:
    """Opens the newest training of the same recipe, code, machine and data, or else a new one.

    Raises:
        OptionError: another process is at work on it, or the data are not there.
        OSError: the folder cannot be written.
    """
    made_with = environment(store, plugins)
    training = recipe.training
    asked = _digest([vars(training) | {"outer": dict(training.outer)}, recipe.bias_every])
    made_from = [code_state(made_with), made_with["fingerprint"]]
    if data := TASKS.create(recipe.cell.task).data():
        made_from.append(data)
    state = _digest([asked, *made_from])
    told: list[str] = []
    for path in [] if fresh else sorted((store / FOLDER).glob("*.jsonl"), reverse=True):
        with suppress(OSError):
            start = first_event(path)
            if start.get("asked") != asked:
                continue
            if start.get("state") != state:
                told = told or [f"{path} was made with other code, packages, machine or data."]
                continue
            if end := end_of(path):
                return Session(None, path, state, end=end)
            try:
                journal = TrainingJournal(path, new=False)
            except BlockingIOError:
                raise OptionError(
                    f"the same training is at work on {path}; --fresh begins another"
                ) from None
            if end := end_of(path):  # since it was looked at
                journal.close()
                return Session(None, path, state, end=end)
            told = [f"Going on with {path}, which was interrupted."]
            if aside := journal.set_aside(lambda line: parsed(line) is not None):
                told.append(f"It had broken or torn lines, which are set aside in {aside}.")
            return Session(journal, path, state, told, made_with)
    journal = TrainingJournal.create(store)
    journal.start(made_with, training, asked=asked, state=state)
    return Session(journal, journal.path, state, told)


def end_of(path: Path) -> TestResult | str | None:
    """Returns how a training ended, or why it could not; None if it has not ended.

    Raises:
        OSError: it cannot be read.
    """
    end: TestResult | str | None = None
    steps, over = 0, False
    for event in map(parsed, path.read_bytes().splitlines()):
        match event:
            case {"event": "evaluation", "split": "test", "step": int(best), "samples": dict(test)}:
                end = TestResult(steps, best, test)
            case {"event": "evaluation", "step": int(step)}:
                steps = max(steps, step)
            case {"event": "failed", "reason": str(reason)}:
                end = reason
            case {"event": "end"}:
                over = True
    return end if over else None


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
