"""Why an estimator has its place in the advice, in plain words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.matrix.metrics import METRICS
from harness.support.units import bytes_text
from reports.tables.pareto import EXACT

_COSTS = {"bias": "bias", "time_ratio": "time", "peak_memory": "memory"}
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_NAMED = 3  # so many names of a long list are told, the others counted

Row = Any  # a named tuple of the table of cells, or of advice
Budgets = Mapping[str, float]


def number_text(number: float) -> str:
    """Returns a number with two digits.

    Example:
        >>> number_text(3.512e-9), number_text(0.0198), number_text(12345)
        ('3.5e-9', '0.02', '12,000')
    """
    if not math.isfinite(number):
        return "infinite"
    rounded = float(f"{number:.2g}")
    if rounded and not 1e-4 <= abs(rounded) < 1e6:
        mantissa, _, exponent = f"{rounded:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{rounded:,g}"


def times_text(factor: float) -> str:
    """Returns a factor as people say it.

    Example:
        >>> times_text(5_661_000)
        '5.7 million times'
    """
    for size, word in _LARGE:
        if size <= float(f"{factor:.2g}") < 1000 * size:
            return f"{number_text(factor / size)} {word} times"
    return f"{number_text(factor)} times"


def memory_text(mebibytes: float) -> str:
    """Returns peak memory as people read it."""
    return bytes_text(mebibytes * METRICS["peak_memory"].scale)


def listed(names: Iterable[str]) -> str:
    """Returns names as a list in a sentence; many are counted.

    Example:
        >>> listed(["maml", "adjoint", "mixed"]), listed("abcde")
        ('maml, adjoint and mixed', 'a, b, c and 2 more')
    """
    *most, last = names
    if len(most) > _NAMED:
        most, last = most[:_NAMED], f"{len(most) + 1 - _NAMED} more"
    return f"{', '.join(most)} and {last}" if most else last


def limits_text(budgets: Budgets) -> str:
    """Returns budgets as people read them; empty where there is none."""
    return listed(_limit_text(name, limit) for name, limit in budgets.items()) if budgets else ""


def _limit_text(name: str, limit: float) -> str:
    if name == "peak_memory":
        return memory_text(limit)
    if name == "time_ratio":
        return f"the time of {number_text(limit)} inner gradients"
    return "exactness" if limit <= EXACT else f"a bias of {number_text(limit)}"


def costs(row: Row) -> list[str]:
    """Returns time and memory as people read them, as far as they were measured."""
    told = []
    if not math.isnan(row.time_ratio):
        told.append(f"{number_text(row.time_ratio)} times an inner gradient")
    if not math.isnan(row.peak_memory):
        told.append(memory_text(row.peak_memory))
    return told


def shortfall(row: Row, budgets: Budgets) -> str:
    """Tells by how much an estimator is beyond budgets, as a predicate.

    Returns:
        "needs 1.8 times the memory", say; empty where it is within all of them.
    """
    told = []
    for name, limit in budgets.items():
        if math.isnan(getattr(row, name)):
            told.append(f"has no {METRICS[name].label} measured")
        elif getattr(row, name) <= limit:
            continue
        elif name == "bias":
            more = _more(getattr(row, name) / limit, "bias")
            told.append("is not exact" if limit <= EXACT else f"has {more} allowed")
        else:
            cost = _COSTS[name]
            more = _more(getattr(row, name) / limit, cost) if limit else f"more {cost} than none"
            told.append(f"needs {more}")
    return listed(told) if told else ""


def _more(factor: float, what: str) -> str:
    if factor >= 1.1:
        return f"{times_text(factor)} the {what}"
    return f"{number_text(100 * (factor - 1))} % more {what}" + (" than" if what == "bias" else "")


def slower(row: Row, other: Row) -> bool:
    """Tells whether one takes longer than another by more than noise: quartiles do not overlap."""
    low = row.time_ratio if math.isnan(row.time_ratio_low) else row.time_ratio_low
    high = other.time_ratio if math.isnan(other.time_ratio_high) else other.time_ratio_high
    return bool(low > high)


def why(
    row: Row,
    budgets: Budgets,
    fitting: Sequence[Row],
    tied: Sequence[Row],
    dominator: Row | None,
) -> str:
    """Returns a sentence on the place of an estimator."""
    if row.outcome != "ok":
        return f"Not ranked, {row.outcome}: {str(row.reason).rstrip('.')}."
    if math.isnan(row.bias):
        return "Not ranked: its bias was not measured."
    if not row.fits:
        text = shortfall(row, budgets)
    elif row is fitting[0]:
        text = _why_first(row, budgets, len(fitting), tied)
    elif dominator is not None:
        text = _why_dominated(row, dominator)
    else:
        text = _against(row, fitting[0])
    if not math.isnan(row.own_bias):
        text += "; it optimises another objective than MAML's, on which its bias is "
        text += number_text(row.own_bias)
    return f"{text[0].upper()}{text[1:]}."


def _why_first(row: Row, budgets: Budgets, fitting: int, tied: Sequence[Row]) -> str:
    exact = row.bias < EXACT
    if not tied:
        of_all = "that fits" if budgets else "that was measured"
        if fitting == 1:
            return f"the only one {of_all}"
        return f"the only exact one {of_all}" if exact else f"the least bias of {fitting}"
    names = listed(one.estimator for one in tied)
    text = f"as exact as {names}" if exact else f"its bias cannot be told from that of {names}"
    it, two = "" if exact else "it ", len(tied) == 1
    if all(slower(one, row) for one in tied):
        return f"{text}, and {it}is {'quicker' if two else 'the quickest of them'}"
    if all(row.peak_memory < one.peak_memory for one in tied):
        return f"{text}, and {it}takes {'less memory' if two else 'the least memory of them'}"
    return text


def _why_dominated(row: Row, dominator: Row) -> str:
    worse: list[str] = []
    same: list[str] = []
    for name, word in _COSTS.items():
        if name == "time_ratio":
            is_worse = slower(row, dominator)
        else:
            least = EXACT if name == "bias" else 0.0
            mine, its = (max(getattr(one, name), least) for one in (row, dominator))
            is_worse = its < mine
        (worse if is_worse else same).append(word)
    text = f"worse than {dominator.estimator} in {listed(worse)}"
    return text + (f", and no better in {listed(same)}" if same else "")


def _against(row: Row, first: Row) -> str:
    """Compares an estimator with the first one, which is not better in everything."""
    name = first.estimator
    if row.bias < EXACT:
        text = f"as exact as {name}"
    elif first.bias < EXACT:
        text = f"bias {number_text(row.bias)} where {name} is exact"
    else:
        text = f"{times_text(row.bias / first.bias)} the bias of {name}"
    told = []
    for cost in ("time_ratio", "peak_memory"):
        share = getattr(row, cost) / (getattr(first, cost) or math.nan)
        if cost == "time_ratio" and not (slower(row, first) or slower(first, row)):
            continue
        if abs(share - 1) > 0.05:  # False where one was not measured
            told.append(f"{number_text(share)} times the {_COSTS[cost]}")
    return f"{text}, at {listed(told)}" if told else text
