"""When two values of a metric differ: exactly where it repeats, by statistics where it is noisy."""

from typing import Any

import numpy as np
import pandas as pd

from harness.matrix.metrics import METRICS

RELATIVE = 1e-6
"""A number that repeats has changed beyond this. The same code gives the same number again on one
machine, so none is needed for that; but code that sums in another order moves float64 in its last
digits, and no accuracy has changed."""

ABSOLUTE = 1e-12
"""Nor has a number changed by less than this: such relative errors are rounding."""

_ANGLES = ("cosine_distance", "batch_cosine_distance")

Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def noisy(metrics: "pd.Series[str]") -> Flags:
    """Tells which metrics vary from run to run; of unknown ones it is to be expected."""
    repeats = [name for name, metric in METRICS.items() if not metric.noisy]
    return ~metrics.isin(repeats).to_numpy(dtype=bool)


def differ(metrics: "pd.Series[str]", before: Floats, after: Floats) -> Flags:
    """Tells which values of metrics that repeat are others than before.

    Counts, which are whole numbers, must be equal; other numbers may differ by `RELATIVE`, or by
    `ABSOLUTE`. NaN differs from any number. A distance between directions is taken for the
    relative error that makes it, whose square it is.
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
    """Returns "better" or "worse", or "other" where neither way is better; NaN is the worst."""
    risen = (after > before) ^ _are(metrics, "higher")
    words = np.where(np.isnan(after) | (risen & ~np.isnan(before)), "worse", "better")
    return [str(word) for word in np.where(_are(metrics, "neither"), "other", words)]


def _are(metrics: "pd.Series[str]", better: str) -> Flags:
    names = [name for name, metric in METRICS.items() if metric.better == better]
    return metrics.isin(names).to_numpy(dtype=bool)


def ratios(before: Floats, after: Floats) -> Floats:
    """Returns after / before, infinite where only the latter is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(after / before)
