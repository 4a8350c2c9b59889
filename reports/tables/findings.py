"""Sentences on the results of the newest commit that stand out."""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, permutations
from typing import Any, NamedTuple

import pandas as pd

from estimators.base.registry import Spec
from harness.matrix.metrics import METRICS
from harness.support.units import number_text
from reports.tables.cells import FILTERS, count_of, is_random, latest
from reports.tables.pareto import EXACT

_MOST = 3
_SMALL = 0.01  # a bias as good as none to whoever trains with it
_LEAST = 1.2  # a factor below this is not worth a sentence
# Parts of a setting that are named where the results have several of them.
_NAMED = {
    **{"device": "{}", "rest": "{}", "machine_label": "machine {}"},
    "trained": "after {} meta-training steps",
}
_READ = (
    *FILTERS,
    *("machine_label", "depth", "estimator", "family", "order", "own_bias", "hvps", "peak_memory"),
    *(f"{name}{end}" for name in ("bias", "bound", "time_ratio") for end in ("", "_low", "_high")),
)

Row = Any  # a named tuple of the table of cells


class Finding(NamedTuple):
    """A result that stands out."""

    effect: float  # a factor above 1
    row: Row  # a cell of its setting
    text: str  # a sentence without setting and full stop


def findings(table: pd.DataFrame) -> list[str]:
    """Return up to three sentences on the newest commit, of each kind the one of largest effect.

    The kinds are: two estimators of one order that are far apart in bias; an estimator with next to
    no bias that costs less than exact MAML; warnings. A bias is called less than another, and a
    time, only where their intervals do not overlap. Random estimators, which have other merits, are
    left out.
    """
    newest = latest(table)
    ended = newest.loc[(newest["outcome"] == "ok") & ~is_random(newest), list(_READ)]
    of_setting: defaultdict[int, list[Row]] = defaultdict(list)
    setting = ended.groupby([*FILTERS, "depth"], sort=False).ngroup()
    for number, row in zip(setting, ended.itertuples(), strict=True):
        of_setting[number].append(row)
    lines = []
    for kind in (_gaps, _savings, _broken, _worse):
        every = [one for rows in of_setting.values() for one in kind(rows) if one.effect >= _LEAST]
        if every:
            largest = max(every, key=lambda one: one.effect)
            more = len({one.row.Index for one in every}) - 1
            also = f"; the same in {more} more cells" if kind in _WARNINGS and more else ""
            lines.append(f"On {_setting(largest.row, ended)}, {largest.text}{also}.")
    return [*lines, *_failed(newest)][:_MOST]


def _setting(row: Row, table: pd.DataFrame) -> str:
    alike = table[(table["task"] == row.task) & (table["model"] == row.model)]
    several = [axis for axis in _NAMED if alike[axis].nunique() > 1]
    more = ", ".join(_NAMED[axis].format(getattr(row, axis)) for axis in several)
    return f"{row.task} with {row.model} at K={row.depth}" + (f" ({more})" if more else "")


def _gaps(rows: list[Row]) -> Iterator[Finding]:
    """Yield pairs of one order, neither of them exact, of which one errs less."""
    of_order: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row.bias >= EXACT and not pd.isna(row.order):
            of_order[count_of(Spec.parse(row.estimator)), row.order].append(row)
    for less, more in chain.from_iterable(permutations(alike, 2) for alike in of_order.values()):
        if less.bias_high < more.bias_low:
            factor = more.bias / less.bias
            text = f"{less.estimator} errs {_digits(factor)} times less than {more.estimator}"
            yield Finding(factor, less, f"{text}: {_biases(less, more)}")


def _savings(rows: list[Row]) -> Iterator[Finding]:
    """Yield estimators with next to no bias that take less time or memory than exact MAML."""
    measured = [row for row in rows if row.time_ratio > 0 and row.peak_memory > 0]
    for maml in (row for row in measured if row.estimator == "maml" and row.bias < EXACT):
        for row in measured:
            if row.bias < EXACT:
                text = f"{row.estimator} is exact, like maml"
            elif row.bias_high <= _SMALL:
                text = f"{row.estimator} is nearly exact (bias {_digits(row.bias)})"
            else:
                continue
            time, memory = row.time_ratio / maml.time_ratio, row.peak_memory / maml.peak_memory
            quicker = row.time_ratio_high < maml.time_ratio_low
            apart = quicker or row.time_ratio_low > maml.time_ratio_high
            sizes = f"{_memory(row)} against {_memory(maml)}"
            text += f", at {_digits(memory)} times the memory of maml ({sizes}) and "
            text += f"{_digits(time)} times its time" if apart else "about the same time"
            if quicker:
                yield Finding(1 / time, row, text)
            yield Finding(1 / memory, row, text)


def _broken(rows: list[Row]) -> Iterator[Finding]:
    """Yield estimators that err more than theory allows."""
    for row in rows:
        if row.bias >= EXACT and row.bias_low > row.bound_high:
            yield Finding(
                row.bias / row.bound if row.bound else math.inf,
                row,
                f"{row.estimator} errs more than theory allows: bias {_digits(row.bias)}, bound "
                f"{_digits(row.bound)}; the curvature is larger than measured, or the estimator is "
                "wrong",
            )


def _worse(rows: list[Row]) -> Iterator[Finding]:
    """Yield estimators that take second derivatives and err more than one without."""
    for first in (row for row in rows if row.family == "fomaml" and row.bias >= EXACT):
        for row in rows:
            # An estimator of another objective is not meant to be close to MAML's gradient.
            if row.hvps > 0 and math.isnan(row.own_bias) and row.bias_low > first.bias_high:
                text = f"{row.estimator} errs more than {first.estimator}, which takes no second "
                text += f"derivatives: {_biases(row, first)}"
                yield Finding(row.bias / first.bias, row, text)


def _failed(table: pd.DataFrame) -> list[str]:
    tried = table.loc[table["outcome"] != "skipped", "outcome"]
    bad = tried[tried != "ok"].value_counts()
    if bad.empty:
        return []
    kinds = ", ".join(f"{count} {outcome}" for outcome, count in bad.items())
    return [f"{bad.sum()} of {len(tried)} cells did not end well: {kinds}."]


def _biases(row: Row, other: Row) -> str:
    return f"bias {_digits(row.bias)} against {_digits(other.bias)}"


def _digits(number: float) -> str:
    return number_text(float(f"{number:.2g}"))


def _memory(row: Row) -> str:
    return METRICS["peak_memory"].text(row.peak_memory * METRICS["peak_memory"].scale)


_WARNINGS = (_broken, _worse)  # the number of such cells matters
