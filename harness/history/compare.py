"""Compare two commits side by side."""

from math import comb

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from estimators.base.errors import OptionError, UserError
from harness.cell import AXES
from harness.history import KEY
from harness.history.differences import Flags, Floats, differ, noisy, ratios, verdicts

P = 0.002
"""Samples differ if p is below this; asv's threshold."""

_CELL = [name for name in KEY if name != "metric"]
_FIELDS = ["outcome", "reason", "value", "low", "high", "samples"]
_SIDES = ("_base", "_head")
COLUMNS = (
    *KEY,
    *AXES,
    *("unit", "where", "differs", "verdict", "ratio", "p"),
    *(f"{name}{side}" for side in _SIDES for name in _FIELDS),
)


def compare(series: pd.DataFrame, base: str, head: str) -> pd.DataFrame:
    """Compare two commits, machine by machine.

    A repeatable metric differs where `differ` says so. A noisy one differs where a Mann-Whitney
    test of the samples gives p below 0.002, as in asv; where samples are missing or too few for
    that, where the intervals do not overlap. This compares two runs: on a shared machine the same
    code may take half as long again in the next one.

    Returns:
        Columns `COLUMNS`: a row for each machine, cell and metric of the cells that both commits
        have, and a row with metric "" for each cell that only one has, or of which nothing was
        measured, or whose outcome changed. "where" is "both", or "base" or "head" for rows of only
        that one. "differs" is whether values or outcomes do; then "verdict" is "better",
        "worse" or "other", else "". "ratio" is head / base, "p" that of the test, NaN where there
        was none. Changed outcomes come first, then differing, then equal rows, the largest ratio
        first, then rows of only one commit.
    """
    rows = series[series["changes"] == ""]
    old, new = (rows[rows["commit"] == _commit(rows, text)] for text in (base, head))
    table = pd.concat([_cells(old, new), _metrics(old, new)], ignore_index=True)
    size = np.abs(np.log(table["ratio"].abs().replace(0.0, np.inf))).fillna(0.0)
    commits = table["where"].where(table["where"] == "both", "one")
    table = table.assign(size=size, commits=commits, outcome=table["metric"] != "")
    order = ["commits", "differs", "outcome", "size", *KEY]
    up = [True, False, True, False, *[True] * len(KEY)]
    return table.sort_values(order, ascending=up, ignore_index=True)[list(COLUMNS)]


def _commit(rows: pd.DataFrame, text: str) -> str:
    known = list(rows["commit"].unique())
    matching = [text] if text in known else [one for one in known if text and one.startswith(text)]
    if len(matching) == 1:
        return str(matching[0])
    if matching:
        raise OptionError(f"{len(matching)} commits with results begin with {text!r}; write more")
    raise UserError(f"no results of commit {text!r} without uncommitted changes")


def _cells(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each cell with a changed outcome, without metrics, or of one commit."""
    one, other = (part.drop_duplicates(_CELL) for part in (old, new))
    table = _beside(one, other, _CELL)
    before, after = table["outcome_base"], table["outcome_head"]
    differs = (table["where"] == "both") & (before != after)
    words = np.select([before == "ok", after == "ok"], ["worse", "better"], "other")
    nothing = table["metric_base"].eq("") & table["metric_head"].eq("")
    numbers = [f"{name}{side}" for side in _SIDES for name in ("value", "low", "high")]
    samples: dict[str, None] = {f"samples{side}": None for side in _SIDES}
    table = table.assign(
        differs=differs,
        verdict=pd.Series(np.where(differs, words, ""), index=table.index, dtype=str),
        metric="",
        **dict.fromkeys([*numbers, "ratio", "p"], np.nan),
        **samples,
    )
    return table[differs | nothing | (table["where"] != "both")]


def _metrics(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each metric of the cells that both commits have."""
    both = old[_CELL].drop_duplicates().merge(new[_CELL].drop_duplicates())
    one, other = (part[part["metric"] != ""].merge(both) for part in (old, new))
    table = _beside(one, other, list(KEY))
    of_one = table["where"] != "both"
    ended = pd.concat([old, new]).groupby(_CELL)["outcome"].nunique().rename("ends").reset_index()
    table = table[~of_one | (table.merge(ended, how="left")["ends"] == 1)].reset_index(drop=True)
    names = ("value", "low", "high")
    before, b_low, b_high = (table[f"{name}_base"].to_numpy(dtype=float) for name in names)
    after, a_low, a_high = (table[f"{name}_head"].to_numpy(dtype=float) for name in names)
    is_noisy = noisy(table["metric"])
    p = _p_values(table, is_noisy)
    apart = (b_low > a_high) | (a_low > b_high)
    moved = differ(table["metric"], before, after)
    differs = np.where(is_noisy, np.where(np.isnan(p), apart, p < P), moved)
    differs &= (table["where"] == "both").to_numpy()
    words = np.where(differs, verdicts(table["metric"], before, after), "")
    verdict = pd.Series(words, index=table.index, dtype=str)
    return table.assign(differs=differs, verdict=verdict, ratio=ratios(before, after), p=p)


def _beside(old: pd.DataFrame, new: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    names = [*on, *_FIELDS, *(["metric"] if "metric" not in on else [])]
    table = old[names].merge(new[names], on=on, how="outer", suffixes=_SIDES, indicator="where")
    where = table["where"].astype(str).map({"left_only": "base", "right_only": "head"})
    about = pd.concat([new, old])
    axes = about[["cell", *AXES]].drop_duplicates("cell")
    ends = [f"{name}{side}" for side in _SIDES for name in ("outcome", "reason")]
    table = table.assign(
        where=where.fillna("both"), **{name: table[name].fillna("") for name in ends}
    )
    table = table.merge(axes, on="cell", how="left")
    units = about.drop_duplicates("metric").set_index("metric")["unit"]
    return table.assign(unit=table["metric"].map(units) if "metric" in on else "")


def _p_values(table: pd.DataFrame, wanted: Flags) -> Floats:
    """Return p of a Mann-Whitney test of the samples, NaN where it could not be below `P`."""
    sizes = np.array(
        [
            [len(one) if isinstance(one, list) else 0 for one in table[f"samples{side}"]]
            for side in _SIDES
        ]
    )
    p = np.full(len(table), np.nan)
    for few, more in set(zip(*sizes[:, wanted].tolist(), strict=True)):
        if 2 / comb(few + more, few) >= P:
            continue
        rows = np.flatnonzero(wanted & (sizes[0] == few) & (sizes[1] == more))
        base, head = (np.stack(table[f"samples{side}"].iloc[rows].to_list()) for side in _SIDES)
        # Exact for few samples, as in asv; by itself scipy would look for ties in all rows at once.
        method = "exact" if max(few, more) <= 20 else "asymptotic"
        p[rows] = mannwhitneyu(base, head, axis=1, method=method).pvalue
    return p
