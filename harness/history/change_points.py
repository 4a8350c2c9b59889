"""Find levels in one series of values: exactly, or by asv's step detection."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from asv.step_detect import (  # type: ignore[import-untyped]
    detect_regressions,
    detect_steps,
    solve_potts_approx,
)
from scipy.stats import mannwhitneyu

from harness.history.differences import Flags, Floats

THRESHOLD = 0.05
"""Smallest relative size of a step of a noisy metric; asv's default."""

_FEWEST = 2  # values on either side of a noisy step: a single run may be disturbed
_CLEAR = 4.0  # times the noise; with less, drifts of the machine would be found as well


class Level(NamedTuple):
    """Neighbouring values around one level, with the fields of asv's steps."""

    left: int
    right: int  # index after the last value
    value: float
    least: float  # the smallest value
    error: float  # mean absolute deviation from the level


class Step(NamedTuple):
    """A step from one level to the next."""

    before: Level
    after: Level
    noise: float  # size in units of the noise; NaN where there is none
    p: float  # of a Mann-Whitney test; NaN where none is needed
    lasting: bool  # whether asv's regression detection reports it


def exact_steps(values: Floats, moves: Flags) -> list[Step]:
    """Return the steps of a series of a repeatable metric."""
    edges = [0, *np.flatnonzero(moves).tolist(), len(values)]
    levels = [Level(i, j, float(values[i]), float(values[i]), 0.0) for i, j in pairwise(edges)]
    lasting = _lasting(levels, threshold=0.0, min_size=1)
    return [Step(a, b, np.nan, np.nan, b.left in lasting) for a, b in pairwise(levels)]


def noisy_steps(values: Floats, low: Floats, high: Floats) -> list[Step]:
    """Return the steps of a noisy series that are not due to chance.

    They are those of asv's step detection, which treats a single step in a short series as a
    drift; so where it finds none, asv's solver is used with its default penalty, and a step must
    be clear of the noise.
    """
    finite = np.flatnonzero(np.isfinite(values))
    values, widths = values[finite], high[finite] - low[finite]
    weights = np.divide(1.0, widths, out=np.full(len(finite), np.nan), where=widths > 0)
    weights /= np.nanmedian(weights) if np.isfinite(weights).any() else 1.0
    data = values.tolist(), np.nan_to_num(weights, nan=1.0).tolist()
    levels = [Level(*one) for one in detect_steps(*data)]
    steps = _clear_steps(levels, values, widths, least=1.0)
    if not steps and len(finite):
        ends, medians, sums = solve_potts_approx(*data)
        starts = [0, *ends[:-1]]
        levels = [
            Level(left, right, value, min(data[0][left:right]), total / (right - left))
            for left, right, value, total in zip(starts, ends, medians, sums, strict=True)
        ]
        steps = _clear_steps(levels, values, widths, least=_CLEAR)
    return [
        step._replace(before=_placed(step.before, finite), after=_placed(step.after, finite))
        for step in steps
    ]


def _clear_steps(
    levels: list[Level], values: Floats, widths: Floats, *, least: float
) -> list[Step]:
    """Return the steps that are larger than a multiple of the noise."""
    levels = [level for level in levels if level.right - level.left >= _FEWEST]
    lasting = _lasting(levels, threshold=THRESHOLD, min_size=_FEWEST)
    steps = []
    for before, after in pairwise(levels):
        size = abs(after.value - before.value)
        inner = widths[before.left : after.right]
        inner = inner[inner > 0]
        unit = max(before.error, after.error, float(np.median(inner)) / 2 if len(inner) else 0.0)
        if size <= max(least * unit, THRESHOLD * abs(before.value)):
            continue
        samples = (values[level.left : level.right] for level in (before, after))
        p = float(mannwhitneyu(*samples).pvalue)
        noise = size / unit if unit else np.inf
        steps.append(Step(before, after, noise, p, after.left in lasting))
    return steps


def _placed(level: Level, places: "np.ndarray[Any, np.dtype[np.intp]]") -> Level:
    return level._replace(left=int(places[level.left]), right=int(places[level.right - 1]) + 1)


def _lasting(levels: list[Level], *, threshold: float, min_size: int) -> set[int]:
    """Return the starts of levels whose step has not been undone since.

    asv detects steps for the worse; those for the better are found in the mirrored series.
    """
    mirrored = [Level(one.left, one.right, -one.value, -one.value, one.error) for one in levels]
    starts = set()
    for series in (levels, mirrored):
        _, _, places = detect_regressions(series, threshold=threshold, min_size=min_size)
        starts |= {after for _, after, _, _ in places or ()}
    return starts
