"""Reads what runs have left: one long table, one row per cell and metric."""

import gc
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from estimators.base.errors import OptionError
from harness.cell import AXES
from harness.matrix.metrics import METRICS
from harness.store.runs import CellResult, Run, read_run

# What the table says of a run and of a cell, and as what.
_OF_RUN: dict[str, type] = {
    **{"run": str, "started": str, "commit": str, "changes": str, "schema": int},
}
_OF_CELL: dict[str, type] = {
    **{
        "machine": str,
        "fingerprint": str,
        "cell": str,
        **{key: axis.kind for key, axis in AXES.items()},
    },
    **{"outcome": str, "reason": str, "notes": str},
}
COLUMNS = (
    *("run", "started", "commit", "changes", "machine", "fingerprint", "schema", "cell", *AXES),
    *("outcome", "reason", "notes", "metric", "value", "low", "high", "samples", "unit"),
)

_MAY_BE: dict[type, set[type]] = {str: {str}, int: {int}, float: {float, int}}  # in JSON

# What content that is not ours can raise while it is read.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)

_START = b'{"event": "start"'


class StoreError(OptionError):
    """The store cannot be read: it is missing, empty or broken."""


@dataclass(frozen=True)
class Problem:
    """A file, or a line of it, that could not be read."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Keeps the collector from walking again and again over what is made, which is all kept."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads all runs of a store.

    Returns:
        The table of `long_table`, newest run last, and what could not be read.

    Raises:
        StoreError: the folder is missing, cannot be read, or holds no run.
    """
    runs, problems = read_runs(store)
    return long_table(runs), problems


def load_run(path: Path) -> pd.DataFrame:
    """Reads one run.

    Returns:
        The table of `long_table`.

    Raises:
        ValueError: the file is not the journal of a run, or of another schema.
        OSError: it cannot be read.
    """
    return long_table([_read(path)])


def load_sound(store: Path) -> pd.DataFrame:
    """Reads all runs of a store, and refuses a broken file.

    Returns:
        The table of `long_table`, newest run last.

    Raises:
        StoreError: the folder is missing, holds no run, or a file in it is broken.
    """
    table, problems = load(store)
    if problems:
        raise StoreError(f"{problems[0]}; mend it or move it out of the store")
    return table


def journals(store: Path) -> list[Path]:
    """Returns the files that runs were journalled to, oldest run first.

    Raises:
        StoreError: the folder is missing, cannot be read, or holds no such file.
    """
    folder = store / "runs"
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror}") from None
    if not paths:
        raise StoreError(f"no results in {store}; `make bench` or `metagrad run quick` makes some")
    return paths


@_no_garbage_collection()
def read_runs(store: Path) -> tuple[list[Run], list[Problem]]:
    """Reads all runs of a store, with what the long table has no column for.

    Returns:
        The runs, oldest first, and what could not be read. A run that was killed before its first
        line is nothing.

    Raises:
        StoreError: the folder is missing, cannot be read, or holds no run.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    for path in journals(store):
        try:
            if path.is_file() and not _has_begun(path):
                continue
            run = _read(path)
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {error.strerror or error}"))
        except _UNREADABLE as error:
            problems.append(Problem(path, f"not a run that can be read: {error}"))
        else:
            runs.append(run)
            problems += [Problem(path, fault) for fault in run.faults]
    if not runs and not problems:
        raise StoreError(f"no results in {store}; `make bench` or `metagrad run quick` makes some")
    return runs, problems


def _has_begun(path: Path) -> bool:
    """Tells whether a run has come to write its first line."""
    with path.open("rb") as file:
        line = file.readline()
    return line.endswith(b"\n") or not _START.startswith(line[: len(_START)])


@_no_garbage_collection()
def long_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Makes one row per run, cell and metric.

    Returns:
        Columns `COLUMNS`. "outcome", "reason" and "notes" (joined by "; ") are those of the cell
        as a whole; a cell of which nothing was measured has one row, with metric "". For "value",
        "low", "high" see `summaries`; "samples" are in "unit", which is "" for a metric that is
        not known here.
    """
    cells = [cell for run in runs for cell in run.cells]
    nothing: Mapping[str, list[float] | None] = {"": None}
    measured = [cell.samples or nothing for cell in cells]
    metrics = list(chain.from_iterable(measured))
    samples = list(chain.from_iterable(one.values() for one in measured))
    of_cell = np.repeat(np.arange(len(cells)), [len(one) for one in measured])
    of_run = np.repeat(np.arange(len(runs)), [len(run.cells) for run in runs])[of_cell]
    about_run = {
        "run": [run.name for run in runs],
        "started": [run.started for run in runs],
        "commit": [run.environment["commit"] for run in runs],
        "changes": [run.environment["changes"] for run in runs],
        "schema": [run.schema for run in runs],
    }
    made_with = [run.made_with(cell) for run in runs for cell in run.cells]
    about_cell = {
        "machine": [one["machine"] for one in made_with],
        "fingerprint": [str(one.get("fingerprint", "")) for one in made_with],
        "cell": [cell.id for cell in cells],
        **{axis: [_axis(cell, axis) for cell in cells] for axis in AXES},
        "outcome": [str(cell.status) for cell in cells],
        "reason": [cell.reason for cell in cells],
        "notes": ["; ".join(cell.notes) for cell in cells],
    }
    parts = [
        _frame(about_run, _OF_RUN).take(of_run).reset_index(drop=True),
        _frame(about_cell, _OF_CELL).take(of_cell).reset_index(drop=True),
        summaries(metrics, samples),
    ]
    return pd.concat(parts, axis=1)[list(COLUMNS)]


def summaries(metrics: Sequence[str], samples: Sequence[list[float] | None]) -> pd.DataFrame:
    """Sums up samples as the metric table says.

    Returns:
        A row for each of them: "metric"; "value", which is the mean, the median or the single
        number, NaN where a sample is; "low" and "high", a 95 % Student interval of the mean, or
        the quartiles; "samples" as they are; "unit". A metric that is not known here has the mean
        as its value, and no interval.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(metrics))}
    of_row = np.array([numbers[name] for name in metrics], dtype=np.int64)
    sizes = np.array([len(one or ()) for one in samples], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(filter(None, samples)), dtype=float)
    starts = np.cumsum(sizes) - sizes
    value, low, high = (np.full(len(sizes), np.nan) for _ in range(3))
    for name, number in numbers.items():
        aggregate = METRICS[name].aggregate if name in METRICS else "unknown"
        of_metric = np.flatnonzero(of_row == number)
        for size in set(sizes[of_metric].tolist()) - {0}:
            rows = of_metric[sizes[of_metric] == size]
            stack = flat[starts[rows][:, None] + np.arange(size)]
            value[rows], low[rows], high[rows] = _SUMMED_UP[aggregate](stack)
    units = [METRICS[name].unit if name in METRICS else "" for name in numbers]
    about = _frame({"metric": list(numbers), "unit": units}, {"metric": str, "unit": str})
    kept = pd.Series(list(samples), dtype=object)
    table = about.take(of_row).reset_index(drop=True)
    return table.assign(value=value, low=low, high=high, samples=kept)


_Numbers = np.ndarray[Any, np.dtype[np.float64]]
_Summary = tuple[_Numbers, _Numbers | float, _Numbers | float]


def _mean(stack: _Numbers) -> _Summary:
    count = stack.shape[1]
    with np.errstate(invalid="ignore"):  # of infinities
        mean = stack.mean(axis=1)
        if count == 1:
            return mean, np.nan, np.nan
        half = stdtrit(count - 1, 0.975) * stack.std(axis=1, ddof=1) / math.sqrt(count)
        return mean, mean - half, mean + half


def _median(stack: _Numbers) -> _Summary:
    with np.errstate(invalid="ignore"):
        low, median, high = np.quantile(stack, [0.25, 0.5, 0.75], axis=1)
    return median, low, high


# What is done to an array of rows of samples, by how the metric is summed up.
_SUMMED_UP: dict[str, Callable[[_Numbers], _Summary]] = {
    "mean": _mean,
    "median": _median,
    "value": lambda stack: (stack[:, 0], np.nan, np.nan),
    "unknown": lambda stack: (_mean(stack)[0], np.nan, np.nan),
}


def _read(path: Path) -> Run:
    """Reads a run whose axes go into the columns.

    Raises:
        ValueError: the file is not the journal of a run, or an axis is not what it should be.
        OSError: it cannot be read.
    """
    run = read_run(path)
    for key, axis in AXES.items():
        kind, values = axis.kind, [_axis(cell, key) for cell in run.cells]
        if not set(map(type, values)) <= _MAY_BE[kind]:
            raise ValueError(f"{key} of a cell is missing or not of type {kind.__name__}")
        if kind is int and values and not -(2**63) <= min(values) <= max(values) < 2**63:
            raise ValueError(f"{key} of a cell is too large")
    return run


def _axis(cell: CellResult, key: str) -> Any:
    return cell.axes.get(key, AXES[key].default if AXES[key].late else None)


def _frame(columns: dict[str, list[Any]], types: dict[str, type]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(columns[name], dtype=types[name]) for name in types})
