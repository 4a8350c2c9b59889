"""Which estimator to take: ranked by bias within budgets of memory, bias and time."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from reports.tables.pareto import EXACT
from reports.tables.reasons import costs, limits_text, number_text, shortfall, slower, why

_COLUMNS = (
    *("rank", "estimator", "family", "order", "cell", "fits", "bias", "bias_low", "bias_high"),
    *("own_bias", "time_ratio", "time_ratio_low", "time_ratio_high", "peak_memory", "beyond"),
    *("tied_with", "dominated_by", "outcome", "why"),
)
# Of more than a hundred columns, those that are looked at.
_READ = (
    *("run", "cell", "estimator", "family", "order", "outcome", "reason", "bias", "bias_low"),
    *("bias_high", "own_bias", "time_ratio", "time_ratio_low", "time_ratio_high", "peak_memory"),
)
_Truths = np.ndarray[Any, np.dtype[np.bool_]]


def advise(
    rows: pd.DataFrame,
    *,
    errors: pd.DataFrame | None = None,
    memory: float | None = None,
    bias: float | None = None,
    time: float | None = None,
) -> pd.DataFrame:
    """Ranks the estimators of one setting: least bias first among those within the budgets.

    Each place goes to the least biased one that is left, or to a quicker one (where quartiles of
    time overlap: to one that takes less memory) that passes none but those from whose bias its own,
    and that of the least biased one, cannot be told. Exact ones cannot be told apart, but can from
    all others. Those can if the bias of one is outside the interval of the other, or if one errs
    more task by task than chance may have it. (That intervals merely overlap says little: all have
    the same tasks.) Those beyond a budget come after all that fit, the nearest first.

    Returns:
        A row for each of `rows`, best first: "rank" (none where the cell did not end well, or its
        bias was not measured), the estimator and its figures, "fits", "beyond" (how many times
        the budget it needs, multiplied where it exceeds several), "tied_with" (the
        others that its place could have gone to; no two of them and it can be told apart by their
        bias), "dominated_by" (one that is no worse in bias, time and memory, and better in one by
        more than noise), "outcome", and "why", a sentence. Its `attrs` have the "budgets", by
        metric.

    Raises:
        ValueError: a budget is negative, or no number.
    """
    budgets = _budgets(memory, bias, time)
    table = rows[[*_READ]].reset_index(drop=True)
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
    lines: list[Any] = list(table.itertuples())
    fitting = [lines[i] for i in tied]
    told = []
    for i in order:
        peers = [lines[j] for j in tied.get(i, [])]
        dominator = next((lines[j] for j in order if better[j, i]), None)
        told.append(
            {
                "tied_with": "; ".join(one.estimator for one in peers),
                "dominated_by": "" if dominator is None else dominator.estimator,
                "why": why(lines[i], budgets, fitting, peers, dominator),
            }
        )
    ranks = [*range(1, known.sum() + 1), *[None] * (~known).sum()]
    found = table.loc[order].reset_index(drop=True).assign(rank=pd.array(ranks, dtype="Int64"))
    for name in ("tied_with", "dominated_by", "why"):
        found[name] = pd.Series([one[name] for one in told], dtype=str)
    found = found[list(_COLUMNS)]
    found.attrs["budgets"] = budgets
    return found


def verdict(advice: pd.DataFrame) -> str:
    """Returns the advice in a sentence."""
    budgets = advice.attrs["budgets"]
    ranked: list[Any] = list(advice[advice["rank"].notna()].itertuples())
    if not ranked:
        ends = [f"{count} {outcome}" for outcome, count in advice["outcome"].value_counts().items()]
        known = f" ({', '.join(ends)})" if ends else ""
        return f"There is nothing to choose from: no estimator's bias is known here{known}."
    first, limits = ranked[0], limits_text(budgets)
    name, is_exact = first.estimator, first.bias < EXACT
    figures = costs(first)
    if not first.fits:
        bias = "exact" if is_exact else f"bias {number_text(first.bias)}"
        return (
            f"Nothing fits within {limits}; {name} comes closest and {shortfall(first, budgets)}: "
            f"{', '.join([bias, *figures])}."
        )
    peers = first.tied_with.split("; ") if first.tied_with else []
    others = [one for one in ranked if one.estimator in peers]
    if all(slower(one, first) for one in others):
        choice = "is the quickest"
    elif all(first.peak_memory < one.peak_memory for one in others):
        choice = "takes the least memory"
    else:
        choice = "is the first choice"
    if is_exact:
        text = f"{name} is exact"
        text += f", and {choice.removeprefix('is ')} of {len(peers) + 1} that are" * bool(peers)
    elif peers:
        text = f"{name} (bias {number_text(first.bias)}) {choice} of {len(peers) + 1} "
        least = min(one.bias for one in ranked if one.fits)
        text += f"whose biases, {number_text(least)} the least, cannot be told apart"
    else:
        text = f"{name} has the least bias, {number_text(first.bias)}"
    text = f"Within {limits}, {text}" if limits else text
    text += f": {', '.join(figures)}" if figures else ""
    exact = [one for one in ranked if one.bias < EXACT]
    if exact and not is_exact:
        nearest = exact[0]
        text += f"; {nearest.estimator} is exact, but {shortfall(nearest, budgets)}"
    return f"{text}."


def _budgets(memory: float | None, bias: float | None, time: float | None) -> dict[str, float]:
    limits = {"peak_memory": memory, "bias": bias, "time_ratio": time}
    budgets = {name: float(limit) for name, limit in limits.items() if limit is not None}
    for name, limit in budgets.items():
        if not limit >= 0:
            raise ValueError(f"the budget of {name}, {limit:g}, must be 0 or more")
    if "bias" in budgets:
        budgets["bias"] = max(budgets["bias"], EXACT)
    return budgets


def _apart(table: pd.DataFrame, errors: pd.DataFrame | None) -> _Truths:
    """Tells of each pair of rows whether one is known to be more biased than the other."""
    bias = table["bias"].to_numpy(float)
    low, high = (
        table[f"bias_{end}"].fillna(table["bias"]).to_numpy(float) for end in ("low", "high")
    )
    apart: _Truths = (bias[:, None] > high) | (low[:, None] > bias)
    if errors is not None:
        apart |= _apart_by_task(table, errors)
    apart &= bias[:, None] > bias
    apart |= apart.T
    exact = bias < EXACT
    apart[exact[:, None] & exact] = False
    apart[exact[:, None] != exact] = True
    return apart


def _apart_by_task(table: pd.DataFrame, errors: pd.DataFrame) -> _Truths:
    """Tells of each pair of rows whether the first errs more, judged by what they share: the tasks.

    Their ratio is looked at, since a task that is hard for one is hard for all, and one such task
    makes the interval of a mean as wide as can be.
    """
    of_cell = {key: one.to_numpy(float) for key, one in errors.groupby(["run", "cell"])["value"]}
    keys = table[["run", "cell"]].itertuples(index=False, name=None)
    found = [of_cell.get(key, np.empty(0)) for key in keys]
    count = max((len(one) for one in found), default=0)
    if count < 2:
        return np.zeros((len(table), len(table)), dtype=np.bool_)
    # Other numbers of tasks are other tasks, from which nothing follows.
    alike = [one if len(one) == count else np.full(count, np.nan) for one in found]
    logs = np.log(np.maximum(np.stack(alike), EXACT))
    with np.errstate(invalid="ignore"):  # of infinities
        gaps = logs[:, None] - logs
        half = stdtrit(count - 1, 0.975) * gaps.std(axis=2, ddof=1) / np.sqrt(count)
        more: _Truths = gaps.mean(axis=2) > half
    return more


def _places(table: pd.DataFrame, apart: _Truths) -> dict[int, list[int]]:
    """Gives places by the rule of `advise`.

    Returns:
        The index of each row, best first, with the others that its place could have gone to.
    """
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
        near = [i for i in free if not slower(rows[i], rows[quickest])]
        best = min(near, key=lambda i: (cost[i][1], cost[i]))
        places[best] = [i for i in free if i != best]
        left.remove(best)
    return places


def _dominance(table: pd.DataFrame, apart: _Truths) -> _Truths:
    """Tells of each pair of rows whether the first is worse in nothing and better in something."""
    names = ["level", "time_ratio", "peak_memory"]
    bias, time, memory = (table[name].to_numpy()[:, None] for name in names)
    no_worse = (bias <= bias.T) & (time <= time.T) & (memory <= memory.T)
    quick = table["time_ratio_high"].fillna(table["time_ratio"]).to_numpy()[:, None]
    slow = table["time_ratio_low"].fillna(table["time_ratio"]).to_numpy()
    better: _Truths = ((bias < bias.T) & apart) | (quick < slow) | (memory < memory.T)
    return no_worse & better
