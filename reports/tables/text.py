"""Rows of the table of cells, as people read them."""

from typing import Any

import pandas as pd

from harness.matrix.metrics import METRICS
from harness.support.units import bytes_text

_SUMMARY = ("bias", "time_ratio", "peak_memory", "flops", "hvps", "serial_depth")
_MEMORY = {"peak_memory": METRICS["peak_memory"].label}
_RANKED = ("bias", "peak_memory", "time_ratio")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns to read, under the names to read."""
    titles = {name: METRICS[name].title for name in _SUMMARY}
    told = table[["estimator", *titles, "outcome", "reason", "notes"]]
    return _memory_told(told).rename(columns=titles | _MEMORY)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Returns all that is known of cells, under the names to read."""
    axes = ["estimator", "task", "model", "depth", "device", "rest", "trained", "outcome"]
    titles = {name: one.title for name, one in METRICS.items() if table[name].notna().any()}
    more = ["reason", "notes", "commit_label", "machine_label", "started", "cell"]
    names = {"rest": "dtype, step size, seed, tasks", "trained": "meta-training steps"}
    names |= {"commit_label": "commit", "machine_label": "machine"}
    return table[[*axes, *titles, *more]].rename(columns=names | titles)


def disturbed(table: pd.DataFrame) -> str:
    """Returns a sentence on the timings that something disturbed; empty where nothing did."""
    noted = table.loc[table["notes"] != "", "notes"]
    if noted.empty:
        return ""
    example = noted.value_counts().index[0]
    return f"{len(noted)} of {len(table)} timings were disturbed, such as: {example}."


def as_text(table: pd.DataFrame) -> list[list[str]]:
    """Returns the rows of a table as text, numbers with three significant digits."""
    return [[_text(value) for value in row] for row in table.itertuples(index=False)]


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.3g}"
    return str(value)


def ranking(advice: pd.DataFrame) -> pd.DataFrame:
    """Returns which estimator comes in which place, and why, under the names to read."""
    titles = {name: METRICS[name].title for name in ("bias", "time_ratio")}
    told = advice.assign(fits=advice["fits"].map({True: "yes", False: "no"}))
    # Where there is no budget all fit.
    fits = ["fits"] if advice.attrs["budgets"] else []
    told = _memory_told(told[["rank", "estimator", *fits, *_RANKED, "why"]])
    return told.rename(columns=titles | _MEMORY)


def _memory_told(table: pd.DataFrame) -> pd.DataFrame:
    """Writes memory out: models of a few KiB and of many MiB have no unit in common."""
    size = METRICS["peak_memory"].scale
    known = [bytes_text(value * size) if value >= 0 else "" for value in table["peak_memory"]]
    return table.assign(peak_memory=known)
