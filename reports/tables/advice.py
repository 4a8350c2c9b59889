"""Which estimator to take: ranked by bias within budgets of memory, bias and time."""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from harness.matrix.metrics import LEVEL, METRICS
from harness.support.units import number_text
from reports.tables.cells import of_one_estimate
from reports.tables.pareto import EXACT

_COLUMNS = (
    *("rank", "estimator", "family", "order", "cell", "fits", "bias", "bias_low", "bias_high"),
    *("own_bias", "time_ratio", "time_ratio_low", "time_ratio_high", "peak_memory", "beyond"),
    *("tied_with", "dominated_by", "beyond_budget", "outcome", "note"),
)
# Of more than a hundred columns, those that are used.
_READ = (
    *("run", "cell", "estimator", "family", "order", "outcome", "reason", "bias", "bias_low"),
    *("bias_high", "own_bias", "time_ratio", "time_ratio_low", "time_ratio_high", "peak_memory"),
    *("spread", "rmse", "rmse_low", "rmse_high", "bias_limit", "bias_chance"),
)
_RANDOM = "random"
_Flags = np.ndarray[Any, np.dtype[np.bool_]]
Row = Any  # a named tuple of the table of cells, or of advice


def advise(
    rows: pd.DataFrame,
    *,
    errors: pd.DataFrame | None = None,
    memory: float | None = None,
    bias: float | None = None,
    time: float | None = None,
) -> pd.DataFrame:
    """Rank the estimators of one setting: least bias first among those within the budgets.

    The bias of a random estimator stands for what one estimate is off here, its own bias in "note".

    Each place goes to the least biased estimator that is left, or to a quicker one (where quartiles
    of time overlap: to one that takes less memory) as long as it only passes estimators from whose
    bias its own, and that of the least biased one, do not differ by more than noise. Exact ones
    never differ from each other, and always from all others. Two others differ if the bias of one
    is outside the interval of the other, or if one errs more task by task than chance may have it.
    (Overlapping intervals alone say little: all have the same tasks.) Estimators beyond a budget
    come after all that fit, the nearest first.

    Args:
        rows: cells of one setting.
        errors: samples by task of bias, or of what one estimate is off; see `View.errors`.
        memory: the largest peak memory, in the shown unit.
        bias: the largest bias; 0 asks for exact estimators.
        time: the longest time, in inner gradients.

    Returns:
        A row for each of `rows`, best first. "rank" is missing where the cell did not end well or
        its bias was not measured ("note" says which); "beyond" is the product of the budgets that
        it exceeds, as multiples; "tied_with" has the others that its place could have gone to;
        "dominated_by" one that is no worse in bias, time and memory, and better in one by more
        than noise. The `attrs` have the "budgets", by metric.
    """
    budgets = _budgets(memory, bias, time)
    table = rows[[*_READ]].reset_index(drop=True)
    table["note"] = _texts([_note(row) for row in table.itertuples()])
    table = of_one_estimate(table)
    # Exact ones differ by rounding, which decides nothing.
    table["level"] = table["bias"].clip(lower=EXACT)
    known = (table["outcome"] == "ok") & table["bias"].notna()
    shares = pd.DataFrame({k: table[k] / limit for k, limit in budgets.items()}, table.index)
    table["fits"] = known & (shares <= 1).all(axis=1)
    beyond = shares.clip(lower=1).prod(axis=1, skipna=False)
    table["beyond"] = beyond.where(known & ~table["fits"])
    apart = _apart(table, errors)
    tied = _places(table[table["fits"]], apart)
    after = table[known & ~table["fits"]].sort_values(["beyond", "level"], kind="stable").index
    order = [*tied, *after, *table.index[~known]]
    better = _dominance(table, apart) & known.to_numpy() & known.to_numpy()[:, None]
    names = table["estimator"]
    dominators = [next((names[j] for j in order if better[j, i]), "") for i in order]
    advice = table.loc[order].assign(
        rank=pd.array([*range(1, known.sum() + 1), *[None] * (~known).sum()], dtype="Int64"),
        tied_with=_texts(["; ".join(names[j] for j in tied.get(i, [])) for i in order]),
        dominated_by=_texts(dominators),
    )
    ranked = list(advice.itertuples())
    advice["beyond_budget"] = _texts([_excess(row, budgets) for row in ranked])
    advice = advice[list(_COLUMNS)].reset_index(drop=True)
    advice.attrs["budgets"] = budgets
    return advice


def verdict(advice: pd.DataFrame) -> str:
    """Return the advice in a sentence."""
    budgets = advice.attrs["budgets"]
    ranked: list[Row] = list(advice[advice["rank"].notna()].itertuples())
    if not ranked:
        counts = advice["outcome"].value_counts().items()
        ends = ", ".join(f"{count} {outcome}" for outcome, count in counts)
        return "No estimator's bias is known here" + (f" ({ends})." if ends else ".")
    first = ranked[0]
    limits = ", ".join(_amount(name, limit) for name, limit in budgets.items())
    limits = limits.replace("exact", "bias 0")
    numbers = ", ".join(
        _amount(name, getattr(first, name))
        for name in ("bias", "time_ratio", "peak_memory")
        if not math.isnan(getattr(first, name))
    )
    if first.note.startswith(_RANDOM):
        numbers = numbers.replace("bias", "error of one estimate")
    if not first.fits:
        return (
            f"Nothing fits within {limits}. Nearest is {first.estimator} ({numbers}), beyond by "
            f"{first.beyond_budget}."
        )
    text = f"{first.estimator}, {_choice(first, ranked)} ({numbers})."
    text = f"Within {limits}, use {text}" if limits else f"Use {text}"
    exact = next((one for one in ranked if one.bias < EXACT), None)
    if exact and first.bias >= EXACT:
        text += f" {exact.estimator} is exact, but beyond the budget by {exact.beyond_budget}."
    return text


def by_memory(rows: pd.DataFrame, errors: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the first choice of `advise` as the budget of memory grows, as people read it."""
    known = rows[(rows["outcome"] == "ok") & rows["bias"].notna()]
    first: list[dict[str, Any]] = []
    for budget in sorted(known["peak_memory"].dropna().unique()):
        best = advise(rows, errors=errors, memory=budget).iloc[0]
        if not first or best["estimator"] != first[-1]["estimator"]:
            names = ("estimator", "bias", "time_ratio", "tied_with")
            first.append(
                {"from": _amount("peak_memory", budget)} | {name: best[name] for name in names}
            )
    titles = {name: METRICS[name].title for name in ("bias", "time_ratio")}
    columns = {"from": "memory, from", "estimator": "estimator", **titles, "tied_with": "tied with"}
    return pd.DataFrame(first, columns=[*columns]).rename(columns=columns)


def _choice(first: Row, ranked: list[Row]) -> str:
    """Return why the first one is first."""
    fitting = [one for one in ranked if one.fits]
    exact = first.bias < EXACT
    if len(fitting) == 1:
        return "the only one that fits"
    if not first.tied_with:
        return "the only exact one" if exact else f"the least bias of {len(fitting)}"
    peers = first.tied_with.split("; ")
    others = [one for one in fitting if one.estimator in peers]
    if all(_slower(one, first) for one in others):
        how = "the quickest"
    elif all(first.peak_memory < one.peak_memory for one in others):
        how = "the least memory"
    else:
        how = "the first"
    like = "exact ones" if exact else "whose biases do not differ by more than noise"
    return f"{how} of {len(peers) + 1} {like}"


def _amount(name: str, value: float) -> str:
    """Return a bias, time or memory in words."""
    text = METRICS[name].text(value * METRICS[name].scale)
    if name == "bias":
        return "exact" if value <= EXACT else f"bias {text}"
    return f"{text} inner gradients" if name == "time_ratio" else text


def _excess(row: Row, budgets: dict[str, float]) -> str:
    """Return how far an estimator is beyond each budget that it exceeds."""
    excess = []
    for name, limit in budgets.items() if row.outcome == "ok" else ():
        value, label = getattr(row, name), METRICS[name].label
        if math.isnan(value):
            excess.append(f"{label} not measured")
        elif value > limit:
            if name == "bias" and limit <= EXACT:
                excess.append("not exact")
            else:
                excess.append(f"{number_text(value / limit)} × {label}" if limit else label)
    return ", ".join(excess)


def _note(row: Row) -> str:
    if row.outcome != "ok":
        return f"{row.outcome}: {row.reason}"
    if row.spread > 0:
        found = f"{number_text(row.bias)}" if row.bias_chance <= LEVEL else "not seen"
        return (
            f"{_RANDOM}: error of one estimate; bias {found}, below {number_text(row.bias_limit)}"
        )
    return "bias not measured" if math.isnan(row.bias) else ""


def _texts(values: list[str]) -> Any:
    return pd.array(values, dtype="str")


def _slower(row: Row, other: Row) -> bool:
    """Return whether one takes longer than another by more than noise: quartiles do not overlap."""
    low = row.time_ratio if math.isnan(row.time_ratio_low) else row.time_ratio_low
    high = other.time_ratio if math.isnan(other.time_ratio_high) else other.time_ratio_high
    return bool(low > high)


def _budgets(memory: float | None, bias: float | None, time: float | None) -> dict[str, float]:
    limits = {"peak_memory": memory, "bias": bias, "time_ratio": time}
    budgets = {name: float(limit) for name, limit in limits.items() if limit is not None}
    for name, limit in budgets.items():
        if not limit >= 0:
            raise ValueError(f"the budget of {name}, {limit:g}, must be 0 or more")
    if "bias" in budgets:
        budgets["bias"] = max(budgets["bias"], EXACT)
    return budgets


def _apart(table: pd.DataFrame, errors: pd.DataFrame | None) -> _Flags:
    """Return for each pair of rows whether one is known to be more biased than the other."""
    bias = table["bias"].to_numpy(float)
    low, high = (
        table[f"bias_{end}"].fillna(table["bias"]).to_numpy(float) for end in ("low", "high")
    )
    apart: _Flags = (bias[:, None] > high) | (low[:, None] > bias)
    if errors is not None:
        apart |= _apart_by_task(table, errors)
    apart &= bias[:, None] > bias
    apart |= apart.T
    exact = bias < EXACT
    apart[exact[:, None] & exact] = False
    apart[exact[:, None] != exact] = True
    return apart


def _apart_by_task(table: pd.DataFrame, errors: pd.DataFrame) -> _Flags:
    """Return for each pair of rows whether the first errs more, task by task.

    The ratio of errors is compared, since a task that is hard for one is hard for all, and one such
    task makes the interval of a mean very wide.
    """
    of_cell = {key: one.to_numpy(float) for key, one in errors.groupby(["run", "cell"])["value"]}
    keys = table[["run", "cell"]].itertuples(index=False, name=None)
    samples = [of_cell.get(key, np.empty(0)) for key in keys]
    count = max((len(one) for one in samples), default=0)
    if count < 2:
        return np.zeros((len(table), len(table)), dtype=np.bool_)
    # Other numbers of tasks are other tasks, from which nothing follows.
    alike = [one if len(one) == count else np.full(count, np.nan) for one in samples]
    logs = np.log(np.maximum(np.stack(alike), EXACT))
    with np.errstate(invalid="ignore"):  # of infinities
        gaps = logs[:, None] - logs
        half = stdtrit(count - 1, 0.975) * gaps.std(axis=2, ddof=1) / np.sqrt(count)
        more: _Flags = gaps.mean(axis=2) > half
    return more


def _places(table: pd.DataFrame, apart: _Flags) -> dict[int, list[int]]:
    """Return the rows, best first by the rule of `advise`, each with those it is tied with."""
    left = list(table.sort_values("level", kind="stable").index)
    rows = {one.Index: one for one in table.itertuples()}
    costs_of = table[["time_ratio", "peak_memory", "level"]].fillna(np.inf)
    cost = dict(zip(table.index, costs_of.itertuples(index=False, name=None), strict=True))
    places = {}
    while left:
        end = next((n for n, i in enumerate(left) if apart[left[0], i]), len(left))
        # To be like the least biased one is not enough: one in between may be known to be better.
        free = [i for n, i in enumerate(left[:end]) if not apart[left[:n], i].any()]
        quickest = min(free, key=cost.__getitem__)
        near = [i for i in free if not _slower(rows[i], rows[quickest])]
        best = min(near, key=lambda i: (cost[i][1], cost[i]))
        places[best] = [i for i in free if i != best]
        left.remove(best)
    return places


def _dominance(table: pd.DataFrame, apart: _Flags) -> _Flags:
    """Return for each pair of rows whether the first is nowhere worse and somewhere better."""
    names = ["level", "time_ratio", "peak_memory"]
    bias, time, memory = (table[name].to_numpy()[:, None] for name in names)
    no_worse = (bias <= bias.T) & (time <= time.T) & (memory <= memory.T)
    quick = table["time_ratio_high"].fillna(table["time_ratio"]).to_numpy()[:, None]
    slow = table["time_ratio_low"].fillna(table["time_ratio"]).to_numpy()
    better: _Flags = ((bias < bias.T) & apart) | (quick < slow) | (memory < memory.T)
    return no_worse & better
