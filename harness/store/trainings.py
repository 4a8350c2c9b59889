"""Journals of meta-trainings with one estimator: evaluations along the way and at the end.

Each training has a file, STORE/trainings/NAME.jsonl, an event a line: "start"; "compilation", which
says whether the estimator was compiled, and why; any number of "evaluation"; "end". Samples of an
evaluation have one number for each task, in task order: one position is one task in all trainings
of a seed, so that samples can be paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pandas as pd

from harness.cell import AXES
from harness.matrix.metrics import Samples
from harness.store.events import (
    Problem,
    check,
    check_samples,
    check_start,
    parse_events,
    read_journals,
)
from harness.store.journal import EventFile
from harness.store.table import summaries

SCHEMA = 1
"""Version of what is written."""

FOLDER = "trainings"

Split = Literal["train", "validation", "test"]
"""Tasks of an evaluation: those of the training, others, or those used once, at the end."""

Option = str | int | float | bool

# Number of tasks and training steps differ from one evaluation to the next.
TRAINING_AXES = {key: axis.kind for key, axis in AXES.items() if key not in ("tasks", "trained")}
"""Axes of a training that are columns, with their types."""

_OF_TRAINING: dict[str, type] = {
    **{"training": str, "started": str, "commit": str, "changes": str, "machine": str},
    **{"fingerprint": str, **TRAINING_AXES, "outer": str},
}
_OF_EVALUATION: dict[str, type] = {"step": int, "split": str}
_SUMMARY = ("metric", "value", "low", "high", "samples", "unit")
COLUMNS = (*_OF_TRAINING, *_OF_EVALUATION, *_SUMMARY)

_Key = tuple[int, str, str]  # step, split and metric


@dataclass(frozen=True)
class Training:
    """Configuration of a training.

    Attributes:
        estimator: canonical estimator specification.
        task: canonical task specification.
        model: canonical model specification.
        depth: K, inner steps.
        step_size: alpha.
        device: "cpu" or "cuda:N".
        dtype: "float32" or "float64".
        seed: of the initial parameters and of the tasks.
        outer: everything else that numbers depend on: the optimiser and its learning rate, tasks
            in a meta-batch, steps. Only trainings that agree in it are compared.
    """

    estimator: str
    task: str
    model: str
    depth: int
    step_size: float
    device: str
    dtype: str
    seed: int
    outer: Mapping[str, Option]


class TrainingJournal(EventFile):
    """The journal of one training; see `harness.store.journal.EventFile`."""

    @classmethod
    def create(cls, store: Path) -> Self:
        """Create the journal of a new training."""
        return cls.create_in(store / FOLDER)

    def start(self, environment: dict[str, Any], training: Training, **more: Any) -> None:
        """Write configuration and environment."""
        axes = asdict(training) | {"outer": dict(training.outer)}
        self._write("start", schema=SCHEMA, environment=environment, training=axes, **more)

    def failed(self, reason: str) -> None:
        """Write why the training cannot go on, and the end."""
        self._write("failed", reason=reason)
        self.end()

    def compilation(self, *, compiled: bool, reason: str) -> None:
        """Write whether the estimator is compiled."""
        self._write("compilation", compiled=compiled, reason=reason)

    def evaluation(self, step: int, split: Split, samples: Samples, *, seconds: float) -> None:
        """Write an evaluation; it replaces an earlier one of the step and split."""
        self._write(
            "evaluation", step=step, split=split, samples=samples, seconds=round(seconds, 4)
        )


@dataclass(frozen=True)
class _Record:
    """One training: its columns, samples of each evaluation, and lines that could not be read."""

    columns: dict[str, Any]
    evaluations: dict[_Key, list[float]]
    faults: list[str]


def trainings(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read all trainings of a store, including those that have not ended.

    Returns:
        A table of columns `COLUMNS` with one row per training, step, split and metric, newest
        training last; and what could not be read. "training" is the name of the file without its
        suffix, "outer" the options as text, in the order of their names; for "value", "low" and
        "high", which are over tasks, see `harness.store.table.summaries`.
    """
    folder = store / FOLDER
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        paths = []
    except OSError as error:
        return _table([]), [Problem(folder, f"cannot be read: {error.strerror or error}")]
    records, problems = read_journals(paths, parse_training, "training")
    for one in records:
        path = folder / f"{one.columns['training']}.jsonl"
        problems += [Problem(path, fault) for fault in one.faults]
    return _table(records), problems


def _table(records: Sequence[_Record]) -> pd.DataFrame:
    """Return a row for each training, step, split and metric."""
    keys = [(one.columns, key) for one in records for key in one.evaluations]
    rows = [{**columns, "step": step, "split": split} for columns, (step, split, _) in keys]
    axes = {
        name: pd.Series([row[name] for row in rows], dtype=kind)
        for name, kind in (_OF_TRAINING | _OF_EVALUATION).items()
    }
    samples = [values for one in records for values in one.evaluations.values()]
    summary = summaries([metric for _, (*_, metric) in keys], samples)
    return pd.concat([pd.DataFrame(axes), summary], axis=1)[list(COLUMNS)]


def parse_training(name: str, content: bytes) -> _Record:
    """Parse the journal of a training."""
    events = parse_events(content, "training", SCHEMA)
    evaluations: dict[_Key, list[float]] = {}
    faults = events.faults
    for number, event in events.others:
        if event.get("event") == "evaluation":
            try:
                evaluations |= _evaluation(event)
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    return _Record(_columns(name, events.start), evaluations, faults)


def _columns(name: str, start: dict[str, Any]) -> dict[str, Any]:
    check_start(start)
    check(start, {"training": dict})
    environment, training = start["environment"], start["training"]
    columns: dict[str, Any] = {"training": name, "started": start["at"]}
    columns |= {key: environment[key] for key in ("commit", "changes", "machine")}
    columns |= {"fingerprint": environment.get("fingerprint", "")}
    columns |= {key: training.get(key) for key in TRAINING_AXES}
    columns |= {"outer": outer_text(training.get("outer"))}
    check(columns, _OF_TRAINING)
    if columns["depth"] < 0 or columns["seed"] < 0:
        raise ValueError("depth or seed is negative")
    return columns


def outer_text(outer: Any) -> str | None:
    """Return the options of a training as text, in the order of their names."""
    if not isinstance(outer, dict):
        return None
    return ", ".join(f"{name}={value}" for name, value in sorted(outer.items()))


def _evaluation(event: dict[str, Any]) -> dict[_Key, list[float]]:
    check(event, {**_OF_EVALUATION, "samples": dict})
    step, split = event["step"], event["split"]
    if step < 0 or split not in get_args(Split):
        raise ValueError(f"step {step} or split {split!r} is unknown here")
    check_samples(event["samples"])
    return {(step, split, name): values for name, values in event["samples"].items()}
