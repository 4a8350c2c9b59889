"""Rows of the table of cells under the names that people read."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd

from harness.cell import AXES
from harness.matrix.metrics import METRICS
from harness.matrix.notes import sorted_notes
from harness.support.units import number_text
from reports.tables.cells import REST_LABEL, has_two_truths, is_random

_SUMMARY = ("time_ratio", "peak_memory", "flops", "hvps", "serial_depth")
_NAMES = {"rest": REST_LABEL, "commit_label": "commit", "machine_label": "machine"}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the most important metrics of cells."""
    drawn = ["spread", "rmse"] if is_random(table).any() else []
    second = ["bias_t2"] if has_two_truths(table) else []
    names = ["estimator", "bias", *second, *drawn, *_SUMMARY, "outcome", "reason", "notes"]
    return _titled(_memory_as_text(table[names]))


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return all that is known of cells."""
    axes = ["estimator", "task", "model", "depth", "device", "rest", "trained", "outcome"]
    measured = [name for name in METRICS if table[name].notna().any()]
    more = ["reason", "notes", "commit_label", "machine_label", "started", "cell"]
    labels = {key: axis.label for key, axis in AXES.items()}
    return _titled(table[[*axes, *measured, *more]]).rename(columns=labels | _NAMES)


def ranking(advice: pd.DataFrame) -> pd.DataFrame:
    """Return the places of estimators, without the columns in which no row has a value."""
    names = ["rank", "estimator", "bias", "own_bias", "peak_memory", "time_ratio"]
    notes = ["tied_with", "dominated_by", "beyond_budget", "note"]
    table = _memory_as_text(advice[names + notes])
    unused = [name for name in ("own_bias", *notes) if table[name].isin(["", float("nan")]).all()]
    return _titled(table.drop(columns=unused)).rename(
        columns={name: name.replace("_", " ") for name in notes}
    )


def notes(table: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence on the timings that were disturbed, and one on each other note."""
    disturbed, others = sorted_notes(table["notes"])
    if disturbed:
        example = Counter(disturbed).most_common(1)[0][0]
        yield f"{len(disturbed)} of {len(table)} timings were disturbed, such as: {example}."
    for note, count in others.most_common():
        yield f"{count} of {len(table)} cells: {note}."


def as_text(table: pd.DataFrame) -> list[list[str]]:
    """Return the rows of a table as people read them."""
    return [[_text(value) for value in row] for row in table.itertuples(index=False)]


def _text(value: Any) -> str:
    if value is None or value is pd.NA:
        return ""
    return number_text(value) if isinstance(value, float) else str(value)


def _titled(table: pd.DataFrame) -> pd.DataFrame:
    titles = {name: METRICS[name].title for name in table if name in METRICS}
    if "peak_memory" in table and not pd.api.types.is_numeric_dtype(table["peak_memory"]):
        titles["peak_memory"] = METRICS["peak_memory"].label  # each value has its unit
    return table.rename(columns=titles)


def _memory_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Write memory out: models of a few KiB and of many MiB have no unit in common."""
    metric = METRICS["peak_memory"]
    texts = [metric.text(value * metric.scale) for value in table["peak_memory"]]
    return table.assign(peak_memory=texts)
