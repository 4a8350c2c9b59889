"""The record of a meta-training with one estimator: how good it was along the way and at the end.

Each training has a file, STORE/trainings/NAME.jsonl, an event a line: "start"; "evaluation", as
often as wanted; "end". Samples of an evaluation have one number for each task, in task order: the
same place is the same task in every training of that seed, or nothing could be paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pandas as pd

from harness.cell import AXES
from harness.matrix.metrics import Samples
from harness.store.journal import EventFile
from harness.store.runs import parsed
from harness.store.table import Problem, summaries

SCHEMA = 1
"""Version of what is written."""

FOLDER = "trainings"

Split = Literal["train", "validation", "test"]
"""Which tasks: those that are trained on, others, or those that are looked at once, at the end."""

Option = str | int | float | bool

# How many tasks and how long it was trained differs from one evaluation to the next.
TRAINING_AXES = {key: axis.kind for key, axis in AXES.items() if key not in ("tasks", "trained")}
"""The parts of a training that have a column of their own, and what they are."""

_OF_TRAINING: dict[str, type] = {
    **{"training": str, "started": str, "commit": str, "changes": str, "machine": str},
    **{"fingerprint": str, **TRAINING_AXES, "outer": str},
}
_OF_EVALUATION: dict[str, type] = {"step": int, "split": str}
_SUMMED_UP = ("metric", "value", "low", "high", "samples", "unit")
COLUMNS = (*_OF_TRAINING, *_OF_EVALUATION, *_SUMMED_UP)

_MAY_BE: dict[type, set[type]] = {str: {str}, int: {int}, float: {float, int}}  # in JSON
_START = b'{"event": "start"'

_Key = tuple[int, str, str]  # step, split and metric


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

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
        """Starts the journal of a new training.

        Raises:
            OSError: the folder cannot be written.
        """
        return cls.create_in(store / FOLDER)

    def start(self, environment: dict[str, Any], training: Training, **more: Any) -> None:
        """Writes what is trained, and what with."""
        axes = asdict(training) | {"outer": dict(training.outer)}
        self._write("start", schema=SCHEMA, environment=environment, training=axes, **more)

    def failed(self, reason: str) -> None:
        """Writes why the training cannot go on, and that nothing is to follow."""
        self._write("failed", reason=reason)
        self.end()

    def evaluation(self, step: int, split: Split, samples: Samples, *, seconds: float) -> None:
        """Writes how good the parameters are; what a step and split had before is replaced."""
        self._write(
            "evaluation", step=step, split=split, samples=samples, seconds=round(seconds, 4)
        )


def trainings(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads all trainings of a store, those that have not ended too.

    Returns:
        A table of columns `COLUMNS` with one row per training, step, split and metric, newest
        training last; and what could not be read. "training" is the name of the file without its
        suffix, "outer" the options as text, in the order of their names; for "value", "low" and
        "high", which are over tasks, see `harness.store.table.summaries`.
    """
    abouts: list[dict[str, Any]] = []
    found: list[dict[_Key, list[float]]] = []
    paths, problems = _paths(store / FOLDER)
    for path in paths:
        try:
            about, evaluations, faults = _read(path)
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {error.strerror or error}"))
        except ValueError as error:
            problems.append(Problem(path, f"not a training that can be read: {error}"))
        else:
            abouts.append(about)
            found.append(evaluations)
            problems += [Problem(path, fault) for fault in faults]
    return _table(abouts, found), problems


def _paths(folder: Path) -> tuple[list[Path], list[Problem]]:
    """Returns the journals of a folder, oldest first, a file killed before it began left out."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
        return [path for path in paths if not path.is_file() or path.stat().st_size], []
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Problem(folder, f"cannot be read: {error.strerror or error}")]


def _table(
    abouts: Sequence[dict[str, Any]], found: Sequence[dict[_Key, list[float]]]
) -> pd.DataFrame:
    """Returns a row for each training, step, split and metric."""
    rows = [(about, key) for about, one in zip(abouts, found, strict=True) for key in one]
    types = _OF_TRAINING | _OF_EVALUATION
    records = [{**about, "step": step, "split": split} for about, (step, split, _) in rows]
    axes = {
        name: pd.Series([one[name] for one in records], dtype=kind) for name, kind in types.items()
    }
    samples = [values for one in found for values in one.values()]
    summed = summaries([metric for _, (*_, metric) in rows], samples)
    return pd.concat([pd.DataFrame(axes), summed], axis=1)[list(COLUMNS)]


def _read(path: Path) -> tuple[dict[str, Any], dict[_Key, list[float]], list[str]]:
    """Reads a journal: columns of the training, samples, and a sentence for each broken line.

    Raises:
        ValueError: the file is not the journal of a training, or of another schema.
        OSError: it cannot be read.
    """
    *lines, torn = path.read_bytes().split(b"\n")
    if not lines:
        killed = torn.startswith(_START) or _START.startswith(torn)
        raise ValueError("it was killed at its first line" if killed else "it has no whole line")
    about = _about(path, parsed(lines[0]) or {})
    evaluations: dict[_Key, list[float]] = {}
    faults = []
    for number, line in enumerate(lines[1:], start=2):
        event = parsed(line)
        if event is None:
            faults.append(f"line {number} is not a JSON object")
        elif event.get("event") == "evaluation":
            try:
                evaluations |= _evaluation(event)
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    if torn:
        faults.append("its last line is torn: the training was killed as it wrote")
    return about, evaluations, faults


def _about(path: Path, start: dict[str, Any]) -> dict[str, Any]:
    if start.get("event") != "start" or "training" not in start:
        raise ValueError("the first line is not the start of a training")
    if start.get("schema") != SCHEMA:
        raise ValueError(f"it has schema {start.get('schema')}, this version reads {SCHEMA}")
    training, environment = start["training"], start.get("environment")
    if not isinstance(training, dict) or not isinstance(environment, dict):
        raise ValueError("its start lacks what was trained, or what with")
    about: dict[str, Any] = {"training": path.stem, "started": start.get("at")}
    about |= {name: environment.get(name) for name in ("commit", "changes", "machine")}
    about |= {"fingerprint": environment.get("fingerprint", "")}
    about |= {axis: training.get(axis) for axis in TRAINING_AXES}
    about |= {"outer": outer_text(training.get("outer"))}
    for name, kind in _OF_TRAINING.items():
        if type(about[name]) not in _MAY_BE[kind]:
            raise ValueError(f"{name} is missing or not of type {kind.__name__}")
    if any(not 0 <= about[name] < 2**63 for name in ("depth", "seed")):
        raise ValueError("depth or seed is no count")
    return about


def outer_text(outer: Any) -> str | None:
    """Returns the options of a training as text, in the order of their names."""
    if not isinstance(outer, dict):
        return None
    return ", ".join(f"{name}={value}" for name, value in sorted(outer.items()))


def _evaluation(event: dict[str, Any]) -> dict[_Key, list[float]]:
    step, split, samples = (event.get(name) for name in ("step", "split", "samples"))
    if type(step) is not int or not 0 <= step < 2**63:
        raise ValueError(f"{step!r} is no step")
    if not isinstance(split, str) or split not in get_args(Split):
        raise ValueError(f"{split!r} is no split")
    if not isinstance(samples, dict):
        raise ValueError("an evaluation has no samples")
    for name, values in samples.items():
        if not isinstance(values, list) or not values or not set(map(type, values)) <= {int, float}:
            raise ValueError(f"samples of {name} are no list of numbers")
    return {(step, split, name): values for name, values in samples.items()}
