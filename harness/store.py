"""Reads what runs have left: one long table, one row per cell and metric."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from estimators.errors import OptionError
from harness.metrics import METRICS
from harness.runs import Run, read_run

AXES: dict[str, type] = {
    **{"estimator": str, "task": str, "model": str, "depth": int, "step_size": float},
    **{"device": str, "dtype": str, "seed": int, "tasks": int, "trained": int},
}
"""The parts of a cell that have a column of their own, and what they are."""

COLUMNS = (
    *("run", "started", "commit", "changes", "machine", "fingerprint", "schema", "cell"),
    *AXES,
    *("outcome", "reason", "notes", "metric", "value", "low", "high", "samples", "unit"),
)

# Axes that cells have not always had.
_DEFAULTS = {"trained": 0}
_STORED_AS: dict[type, set[type]] = {str: {str}, int: {int}, float: {float, int}}
_TYPES = AXES | dict.fromkeys(("run", "started", "commit", "changes", "machine"), str)
_TYPES |= {"fingerprint": str, "schema": int}
_TYPES |= dict.fromkeys(("cell", "outcome", "reason", "notes"), str)

# What content that is not ours can raise while it is read.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)


class StoreError(OptionError):
    """The store cannot be read: it is missing, empty or broken."""


@dataclass(frozen=True)
class Problem:
    """A file, or a line of it, that could not be read."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def load(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads all runs of a store.

    Args:
        store: the folder of results.

    Returns:
        The table of `long_table`, newest run last, and what could not be read.

    Raises:
        StoreError: the folder is missing, cannot be read, or holds no run.
    """
    with _no_garbage_collection():
        runs, problems = read_runs(store)
        return long_table(runs), problems


def load_run(path: Path) -> pd.DataFrame:
    """Reads one run.

    Args:
        path: its journal.

    Returns:
        The table of `long_table`.

    Raises:
        ValueError: the file is not the journal of a run, or of another schema.
        OSError: it cannot be read.
    """
    return long_table([_read(path)])


def load_sound(store: Path) -> pd.DataFrame:
    """Reads all runs of a store, and refuses a broken file.

    Args:
        store: the folder of results.

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

    Args:
        store: the folder of results.

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


def read_runs(store: Path) -> tuple[list[Run], list[Problem]]:
    """Reads all runs of a store, with what the long table has no column for.

    Args:
        store: the folder of results.

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
            if path.is_file() and not path.stat().st_size:
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


def long_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Makes one row per run, cell and metric.

    Args:
        runs: as `read_runs` returns them.

    Returns:
        Columns `COLUMNS`. "outcome", "reason" and "notes" (joined by "; ") are those of the cell
        as a whole; a cell of which nothing was measured has one row, with metric "". For "value",
        "low", "high" see `summaries`; "samples" are in "unit", which is "" for a metric that is
        not known here.
    """
    of_run = {
        "run": [run.name for run in runs],
        "started": [run.started for run in runs],
        **{name: [run.environment[name] for run in runs] for name in _ENVIRONMENT},
        "fingerprint": [str(run.environment.get("fingerprint", "")) for run in runs],
        "schema": [run.schema for run in runs],
    }
    cells = [cell for run in runs for cell in run.cells]
    of_cell = {
        "cell": [cell.id for cell in cells],
        **{axis: [_axis(cell.axes, axis) for cell in cells] for axis in AXES},
        "outcome": [str(cell.status) for cell in cells],
        "reason": [cell.reason for cell in cells],
        "notes": ["; ".join(cell.notes) for cell in cells],
    }
    measured = [cell.samples or {"": None} for cell in cells]
    rows = np.repeat(np.arange(len(cells)), [len(samples) for samples in measured])
    run_of_cell = np.repeat(np.arange(len(runs)), [len(run.cells) for run in runs])
    metrics = list(chain.from_iterable(measured))
    samples = list(chain.from_iterable(one.values() for one in measured))
    parts = [_frame(of_run).take(run_of_cell[rows]), _frame(of_cell).take(rows)]
    found = pd.concat(
        [part.reset_index(drop=True) for part in parts] + [summaries(metrics, samples)], axis=1
    )
    return found[list(COLUMNS)]
