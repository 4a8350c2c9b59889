"""Axes of metrics: units, and a place on a log axis for numbers that are zero or nearly."""

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from harness.matrix.metrics import METRICS
from reports.figures.style import Rows
from reports.tables.cells import has_two_truths
from reports.tables.pareto import exact_below

# Errors that can be 0 where an estimator is not exact.
_PARTS = ("systematic_bias", "error_spread", "spread", "bias_limit")
_FIRST, _LAST = -200, 308  # decades that an axis can have
_TICKS = 9


def on_axis(
    rows: Rows, channel: str, name: str, *, log: bool = True, most: float = 0.0
) -> tuple[Rows, Any]:
    """Return the rows that have a metric, with the columns NAME_drawn..., and their axis.

    On a log axis what is 0, or no more than rounding (see `exact_below`), stands on a line of its
    own at the end: drawn to scale, ten empty decades would press all others together, and a zero
    would not be drawn at all.
    """
    value = rows[name].astype(float)
    rows, value = rows[np.isfinite(value)], value[np.isfinite(value)]
    low, high = _interval(rows, name)
    title = METRICS[name].title
    if name == "bias" and has_two_truths(rows):
        title = title.replace("bias", "bias to T1", 1)
    scale, axis = alt.Scale(), alt.Axis(format=".3~g", tickCount=6)
    if log:
        zero = (value <= 0) | (value < exact_below(name))
        if zero.any() or exact_below(name):
            highest = np.nanmax([most, *value, *high], initial=0.0)
            # An interval that reaches far down or to zero ends where the scale does.
            whole = low[~zero & (low >= value / 10)]
            lowest = min([*value[~zero], *whole], default=1.0)
            bottom, ticks = _ticks(lowest, highest)
            top = ticks[-1]
            decades = math.log10(top) - math.log10(bottom)
            end = bottom / 10 ** max(0.2, 0.12 * decades) if zero.any() else bottom
            word = "≤ 0" if (value < 0).any() else _word(name)
            # What no decade of the scale holds stands at its ends.
            value, low = value.clip(bottom, top).mask(zero, end), low.clip(bottom).mask(zero)
            high = high.clip(upper=top).mask(zero)
            scale = alt.Scale(type="log", domain=[end, top], nice=False)
            below = math.sqrt(end) * math.sqrt(bottom)
            axis = _axis([end, *ticks] if zero.any() else ticks, word, below)
            if zero.any() and word == "exact":
                title += f"; exact: below {exact_below(name):g}"
        else:
            scale = alt.Scale(type="log", nice=False, padding=18)
            low = low.clip(lower=value.min() / 2)  # likewise
    drawn = {f"{name}_drawn": value, f"{name}_drawn_low": low, f"{name}_drawn_high": high}
    kind = alt.X if channel == "x" else alt.Y
    encoding = kind(f"{name}_drawn:Q", title=title, scale=scale, axis=axis)
    return rows.assign(**drawn), encoding


def _interval(rows: Rows, name: str) -> tuple[Any, Any]:
    """Return both ends of each interval, where neither is infinite.

    The spread of large numbers can be infinite where their mean is not.
    """
    if f"{name}_low" not in rows:  # samples have no intervals
        none = pd.Series(math.nan, index=rows.index)
        return none, none
    low, high = (rows[f"{name}_{end}"].astype(float) for end in ("low", "high"))
    endless = np.isinf(low) | np.isinf(high)
    return low.mask(endless), high.mask(endless)


def _word(name: str) -> str:
    return "exact" if exact_below(name) and name not in _PARTS else "0"


def _axis(ticks: list[float], word: str, below: float) -> alt.Axis:
    """Return an axis with a word below the scale."""
    number = "format(datum.value, datum.value < 0.0009 ? '~e' : '~g')"
    return alt.Axis(values=ticks, labelExpr=f"datum.value < {below:g} ? '{word}' : {number}")


def _ticks(least: float, most: float) -> tuple[float, list[float]]:
    """Return round numbers around a range, at most `_TICKS` of them, rising."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(max(most, least)))
    # Beyond these a power of ten, or the end of the scale below it, is no float.
    first, last = (min(max(decade, _FIRST), _LAST) for decade in (first, last))
    first = min(first, _LAST - 1)
    decades = [10.0**decade for decade in range(first, max(last, first + 1) + 1)]
    finer = [float(f"{m}e{e}") for e in range(first, first + len(decades)) for m in (1, 2, 5)]
    finer = [tick for tick in finer if math.isfinite(tick)]
    bottom = max((tick for tick in finer[:-1] if tick <= least), default=finer[0])
    top = min((tick for tick in finer if tick >= most and tick > bottom), default=finer[-1])
    finer = [tick for tick in finer if bottom <= tick <= top]
    if len(finer) <= _TICKS:
        return bottom, finer
    step = 1 + (len(decades) - 2) // (_TICKS - 1)
    return decades[0], decades[::-1][::step][::-1]
