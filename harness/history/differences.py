"""Whether values of a repeatable metric differ, and whether a change is better or worse."""

from typing import Any

import numpy as np
import pandas as pd

from harness.matrix.metrics import METRICS

RELATIVE = 1e-6
"""Relative tolerance of repeatable metrics. The same code repeats them exactly on one machine; code
that sums in another order changes the last digits of float64, which is no change of accuracy."""

ABSOLUTE = 1e-12
"""Absolute tolerance: relative errors below it are rounding."""

_ANGLES = ("cosine_distance", "batch_cosine_distance")

Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def noisy(metrics: "pd.Series[str]") -> Flags:
    """Return which metrics vary from run to run; unknown ones are assumed to."""
    repeats = [name for name, metric in METRICS.items() if not metric.noisy]
    return ~metrics.isin(repeats).to_numpy(dtype=bool)


def differ(metrics: "pd.Series[str]", before: Floats, after: Floats) -> Flags:
    """Return which values of repeatable metrics have changed.

    Counts, which are whole numbers, must be equal; other numbers may differ by `RELATIVE`, or by
    `ABSOLUTE`. NaN differs from any number. A distance between directions is converted to the
    relative error that causes it, of which it is the square.
    """
    angles = metrics.isin(_ANGLES).to_numpy(dtype=bool)
    before, after = (np.where(angles, np.sqrt(np.abs(2 * one)), one) for one in (before, after))
    with np.errstate(invalid="ignore"):  # of infinities
        whole = (before == np.round(before)) & (after == np.round(after))
        largest = np.maximum(np.abs(before), np.abs(after))
        tolerance = np.where(whole, 0.0, np.maximum(RELATIVE * largest, ABSOLUTE))
        tolerance = np.where(np.isfinite(tolerance), tolerance, 0.0)
        beyond = np.abs(after - before) > tolerance
    return np.asarray(beyond | (np.isnan(before) != np.isnan(after)))


def verdicts(metrics: "pd.Series[str]", before: Floats, after: Floats) -> list[str]:
    """Return "better" or "worse", or "other" where neither direction is better; NaN is worst."""
    risen = (after > before) ^ _are(metrics, "higher")
    words = np.where(np.isnan(after) | (risen & ~np.isnan(before)), "worse", "better")
    return [str(word) for word in np.where(_are(metrics, "neither"), "other", words)]


def _are(metrics: "pd.Series[str]", better: str) -> Flags:
    names = [name for name, metric in METRICS.items() if metric.better == better]
    return metrics.isin(names).to_numpy(dtype=bool)


def ratios(before: Floats, after: Floats) -> Floats:
    """Return after / before, infinite where only the latter is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(after / before)
