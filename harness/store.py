"""Reads what runs have left: one long table, one row per cell and metric."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t as student

from estimators.errors import OptionError
from harness.metrics import METRICS
from harness.runs import Run, read_run

AXES = ("estimator", "task", "model", "depth", "step_size", "device", "dtype", "seed", "tasks")
COLUMNS = (
    *("run", "started", "commit", "changes", "machine", "cell"),
    *AXES,
    *("outcome", "reason", "metric", "value", "low", "high", "samples", "unit"),
)


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
        The long table (columns `COLUMNS`; a cell that was not measured has one row with metric
        ""), newest run last, and what could not be read.

    Raises:
        StoreError: the folder is missing or holds no run.
    """
    paths = [path for path in sorted((store / "runs").glob("*.jsonl")) if path.stat().st_size]
    if not paths:
        raise StoreError(f"no results in {store}; `make bench` or `metagrad run quick` makes some")
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            run = read_run(path)
            rows += _rows(run)
            problems += [Problem(path, fault) for fault in run.faults]
        except _UNREADABLE as error:
            problems.append(Problem(path, f"not a run that can be read: {error}"))
    return pd.DataFrame(rows, columns=list(COLUMNS)), problems


def load_run(path: Path) -> pd.DataFrame:
    """Reads one run.

    Args:
        path: its journal.

    Returns:
        The long table, with columns `COLUMNS`.
    """
    return pd.DataFrame(_rows(read_run(path)), columns=list(COLUMNS))


def load_sound(store: Path) -> pd.DataFrame:
    """Reads all runs of a store, and refuses a broken file.

    Args:
        store: the folder of results.

    Raises:
        StoreError: the folder is missing, holds no run, or a file in it is broken.
    """
    table, problems = load(store)
    if problems:
        raise StoreError(f"{problems[0]}; mend it or move it out of the store")
    return table


def _rows(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for cell in run.cells:
        base = {
            "run": run.name,
            "started": run.started,
            "commit": run.environment["commit"],
            "changes": run.environment["changes"],
            "machine": run.environment["machine"],
            "cell": cell.id,
            **{axis: cell.axes[axis] for axis in AXES},
            "outcome": str(cell.status),
            "reason": cell.reason,
        }
        summaries = [
            {"metric": name, "unit": METRICS[name].unit, **summary(name, samples)}
            for name, samples in cell.samples.items()
            if name in METRICS
        ]
        rows += [base | more for more in summaries or [{"metric": "", "unit": ""}]]
    return rows


def summary(metric: str, samples: list[float]) -> dict[str, Any]:
    """Sums up samples as the metric table says.

    Args:
        metric: a name in `METRICS`.
        samples: one or more.

    Returns:
        "value", "low", "high" (a 95 % Student interval of the mean, or the quartiles; nothing
        for a single number) and the samples.
    """
    series = pd.Series(samples, dtype=float)
    value, low, high = float(series.iloc[0]), float("nan"), float("nan")
    match METRICS[metric].aggregate:
        case "mean":
            value = float(series.mean())
            if len(series) > 1:
                half = float(student.ppf(0.975, len(series) - 1) * series.sem())
                low, high = value - half, value + half
        case "median":
            low, value, high = (float(q) for q in series.quantile([0.25, 0.5, 0.75]))
    return {"value": value, "low": low, "high": high, "samples": list(samples)}
