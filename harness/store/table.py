"""Read runs into one long table with a row for each cell and metric."""

import gc
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from estimators.base.errors import UserError
from harness.cell import AXES
from harness.matrix.metrics import METRICS
from harness.store.events import Problem, read_journals
from harness.store.runs import Run, parse_run, read_run

# Columns of a run and of a cell, with their types.
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


class StoreError(UserError):
    """The store cannot be read: it is missing, empty or broken."""


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Pause the garbage collector, which would walk again and again over results that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read all runs of a store into the table of `long_table`; return the problems as well."""
    runs, problems = read_runs(store)
    return long_table(runs), problems


def load_run(path: Path) -> pd.DataFrame:
    """Read one run into the table of `long_table`."""
    return long_table([read_run(path)])


def load_sound(store: Path) -> pd.DataFrame:
    """Read all runs of a store into the table of `long_table`; refuse a broken file."""
    table, problems = load(store)
    if problems:
        raise StoreError(f"{problems[0]}; mend it or move it out of the store")
    return table


def journals(store: Path) -> list[Path]:
    """Return the journals of runs, oldest run first."""
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
    """Read all runs of a store, oldest first; return the problems of reading as well."""
    runs, problems = read_journals(journals(store), parse_run, "run")
    problems += [
        Problem(store / "runs" / f"{run.name}.jsonl", fault) for run in runs for fault in run.faults
    ]
    if not runs and not problems:
        raise StoreError(f"no results in {store}; `make bench` or `metagrad run quick` makes some")
    return runs, problems


@_no_garbage_collection()
def long_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run, cell and metric.

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
        **{axis: [cell.axes[axis] for cell in cells] for axis in AXES},
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
    """Summarize samples as the metric table says.

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
            value[rows], low[rows], high[rows] = _AGGREGATES[aggregate](stack)
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


# Functions of an array with a row of samples each, by the `aggregate` of a metric.
_AGGREGATES: dict[str, Callable[[_Numbers], _Summary]] = {
    "mean": _mean,
    "median": _median,
    "value": lambda stack: (stack[:, 0], np.nan, np.nan),
    "unknown": lambda stack: (_mean(stack)[0], np.nan, np.nan),
}


def _frame(columns: dict[str, list[Any]], types: dict[str, type]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(columns[name], dtype=types[name]) for name in types})
