"""What stands out among the results of the newest commit, in sentences."""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, permutations
from typing import Any, NamedTuple

import pandas as pd

from reports.tables.cells import FILTERS, latest
from reports.tables.pareto import EXACT
from reports.tables.reasons import listed, memory_text, number_text, times_text

_MOST = 3
_SMALL = 0.01  # a bias as good as none to whoever trains with it
_LEAST = 1.2  # a factor below this is not worth a sentence
# Told of a setting where the results have several, and how.
_TOLD = {
    **{"device": "{}", "rest": "{}", "machine_label": "machine {}"},
    "trained": "after {} meta-training steps",
}

_LOOKED_AT = (
    *FILTERS,
    *("machine_label", "depth", "estimator", "family", "order", "own_bias", "hvps", "peak_memory"),
    *(f"{name}{end}" for name in ("bias", "bound", "time_ratio") for end in ("", "_low", "_high")),
)

Row = Any  # a named tuple of the table of cells


class Finding(NamedTuple):
    """Something that stands out.

    Attributes:
        effect: its size, a factor above 1.
        row: a cell of the setting where it was found.
        text: a sentence without setting and stop.
    """

    effect: float
    row: Row
    text: str


def findings(table: pd.DataFrame) -> list[str]:
    """Returns up to three sentences on the newest commit, of each kind the one of largest effect.

    The kinds are: two estimators of one order that are far apart in bias; what can be had for less
    than exact MAML without its being felt in the bias; what to beware of. A bias is called less
    than another, and a time, only where their intervals do not overlap.
    """
    newest = latest(table)
    ended = newest.loc[newest["outcome"] == "ok", list(_LOOKED_AT)]
    of_setting: defaultdict[int, list[Row]] = defaultdict(list)
    setting = ended.groupby([*FILTERS, "depth"], sort=False).ngroup()
    for number, row in zip(setting, ended.itertuples(), strict=True):
        of_setting[number].append(row)
    told = []
    for kind in (_gaps, _savings, _broken, _worse):
        found = [one for rows in of_setting.values() for one in kind(rows) if one.effect >= _LEAST]
        if found:
            largest = max(found, key=lambda one: one.effect)
            text = f"On {_setting(largest.row, ended)}, {largest.text}"
            more = len({one.row.Index for one in found}) - 1
            if kind in _WARNINGS and more:
                text += f"; so do{'es' * (more == 1)} {more} other cell{'s' * (more > 1)}"
            told.append(f"{text}.")
    return [*told, *_failed(newest)][:_MOST]


def _setting(row: Row, table: pd.DataFrame) -> str:
    alike = table[(table["task"] == row.task) & (table["model"] == row.model)]
    more = [
        text.format(getattr(row, axis)) for axis, text in _TOLD.items() if alike[axis].nunique() > 1
    ]
    told = f" ({', '.join(more)})" if more else ""
    return f"{row.task} with {row.model} at K={row.depth}{told}"


def _gaps(rows: list[Row]) -> Iterator[Finding]:
    """Finds pairs of one order, neither of them exact, of which one errs less.

    Yields:
        A finding for each, with the better one's row.
    """
    of_order: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.bias >= EXACT and not pd.isna(row.order):
            of_order[row.order].append(row)
    for less, more in chain.from_iterable(permutations(alike, 2) for alike in of_order.values()):
        if less.bias_high < more.bias_low:
            ratio = more.bias / less.bias
            yield Finding(
                ratio,
                less,
                f"{less.estimator} errs {times_text(ratio)} less than {more.estimator}: the "
                f"relative error is {number_text(less.bias)} against {number_text(more.bias)}",
            )


def _savings(rows: list[Row]) -> Iterator[Finding]:
    """Finds estimators with next to no bias that cost less than MAML's own gradient.

    Yields:
        A finding for time and one for memory.
    """
    measured = [row for row in rows if row.time_ratio > 0 and row.peak_memory > 0]
    for maml in (row for row in measured if row.estimator == "maml" and row.bias < EXACT):
        for row in measured:
            if row.bias < EXACT:
                text = f"{row.estimator} is as exact as maml"
            elif row.bias_high <= _SMALL:
                text = f"{row.estimator} is as good as exact (relative error "
                text += f"{number_text(row.bias)}) beside maml"
            else:
                continue
            time, memory = row.time_ratio / maml.time_ratio, row.peak_memory / maml.peak_memory
            quicker = row.time_ratio_high < maml.time_ratio_low
            sizes = f"{memory_text(row.peak_memory)} against {memory_text(maml.peak_memory)}"
            text += f", with {number_text(memory)} times its memory ({sizes})"
            told = f"{text} and {number_text(time)} times its time"
            if quicker:
                yield Finding(1 / time, row, told)
            apart = quicker or row.time_ratio_low > maml.time_ratio_high
            told = told if apart else f"{text}; their times cannot be told apart"
            yield Finding(1 / memory, row, told)


def _broken(rows: list[Row]) -> Iterator[Finding]:
    """Finds estimators that err more than theory allows.

    Yields:
        A finding for each.
    """
    for row in rows:
        if row.bias >= EXACT and row.bias_low > row.bound_high:
            yield Finding(
                row.bias / row.bound if row.bound else math.inf,
                row,
                f"{row.estimator} errs more than theory allows, by {number_text(row.bias)} where "
                f"the bound is {number_text(row.bound)}: the curvature is larger than was found, "
                "or the estimator is at fault",
            )


def _worse(rows: list[Row]) -> Iterator[Finding]:
    """Finds estimators that take second derivatives and err more than the one without.

    Yields:
        A finding for each.
    """
    for first in (row for row in rows if row.family == "fomaml" and row.bias >= EXACT):
        for row in rows:
            # One with an objective of its own does not try to be what it is compared with.
            if row.hvps > 0 and math.isnan(row.own_bias) and row.bias_low > first.bias_high:
                yield Finding(
                    row.bias / first.bias,
                    row,
                    f"{row.estimator} errs more than {first.estimator}, which takes no second "
                    f"derivatives: the relative error is {number_text(row.bias)} against "
                    f"{number_text(first.bias)}",
                )


def _failed(table: pd.DataFrame) -> list[str]:
    tried = table.loc[table["outcome"] != "skipped", "outcome"]
    bad = tried[tried != "ok"].value_counts()
    if bad.empty:
        return []
    kinds = listed(f"{count} {outcome}" for outcome, count in bad.items())
    return [f"{bad.sum()} of {len(tried)} cells did not end well: {kinds}."]


_WARNINGS = (_broken, _worse)  # of which it matters how many there are
