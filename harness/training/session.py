"""Begin a meta-training, go on with an interrupted one, or return how a finished one ended."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from estimators.base.errors import UserError
from harness.environment import code_state, environment
from harness.matrix.metrics import Samples
from harness.store.events import parse_event
from harness.store.session import Previous, digest, find_previous
from harness.store.trainings import FOLDER, TrainingJournal
from harness.tasks import TASKS
from harness.training.config import TrainingConfig


@dataclass(frozen=True)
class TestResult:
    """The result of a training: its steps, the one that validated best, and that one's test."""

    __test__ = False  # pytest would take it for a test

    step: int
    best_step: int
    samples: Samples


@dataclass(frozen=True)
class TrainingSession:
    """A training that is open for writing, or that has ended.

    Attributes:
        journal: None if it has ended.
        digest: of the training, its code and machine.
        lines: messages for the user.
        resumed: environment with which it goes on, for the journal; None of a new one.
        end: how it ended, or why it could not go on.
    """

    journal: TrainingJournal | None
    path: Path
    digest: str
    lines: list[str] = field(default_factory=list)
    resumed: dict[str, Any] | None = None
    end: TestResult | str | None = None

    @property
    def checkpoint(self) -> Path:
        """The file of its checkpoint."""
        return self.path.with_suffix(".pt")


def begin(
    store: Path, config: TrainingConfig, *, plugins: tuple[str, ...] = (), fresh: bool = False
) -> TrainingSession:
    """Open the newest training of the same configuration, code, machine and data, or a new one."""
    current = environment(store, plugins)
    training = config.training
    asked = digest(
        [vars(training) | {"outer": dict(training.outer)}, config.bias_every, config.compiled]
    )
    sources = [code_state(current), current["fingerprint"]]
    if data := TASKS.create(config.cell.task).data():
        sources.append(data)
    identity = {"asked": asked, "state": digest([asked, *sources])}
    previous: Previous[TrainingJournal] = Previous()
    if not fresh:
        previous = find_previous(
            *(store / FOLDER, TrainingJournal, identity),
            has_ended=lambda path: end_of(path) is not None,
            on_busy=_refuse,
        )
    if path := previous.ended:
        return TrainingSession(None, path, identity["state"], end=end_of(path))
    if journal := previous.journal:
        return TrainingSession(journal, journal.path, identity["state"], previous.lines, current)
    journal = TrainingJournal.create(store)
    journal.start(current, training, **identity)
    return TrainingSession(journal, journal.path, identity["state"], previous.lines)


def _refuse(path: Path) -> NoReturn:
    raise UserError(f"another process is training the same in {path}; --fresh begins another")


def end_of(path: Path) -> TestResult | str | None:
    """Return how a training ended, or why it could not go on; None if it has not ended."""
    end: TestResult | str | None = None
    steps, over = 0, False
    for event in map(parse_event, path.read_bytes().splitlines()):
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
