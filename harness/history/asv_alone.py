"""What asv tells and no run does, in the columns of the store's long table."""

from typing import Any

import numpy as np
import pandas as pd

from estimators.base.errors import OptionError
from harness.asv.results import POINT

_PLACE = ("machine", "commit", "cell", *POINT)
# The rest of a cell of the matrix that asv measures; its step size is each task's own.
_REST: dict[str, Any] = {"dtype": "float32", "seed": 0, "tasks": 8, "trained": 0}


def asv_alone(asv: pd.DataFrame, long: pd.DataFrame) -> pd.DataFrame:
    """Returns the values that asv has stored, and outcomes where it has none, that no run tells.

    Returns:
        Columns of both. Cells have the name that runs give them; one of which nothing was measured
        has a single row, with metric "".
    """
    table = asv[asv["version"] == asv["benchmark"].map(_versions(asv))]
    table = newest(table, ["machine", "commit", "benchmark"], ["started", "environment"])
    table = _without_what_runs_tell(table, long)
    table = table.assign(fingerprint=_fingerprints(table, long), changes="", run="", reason="")
    of_matrix = table["cell"] == ""
    other = table[~of_matrix].assign(step_size=np.nan, dtype="")
    return pd.concat([_named(table[of_matrix]), other])


def newest(table: pd.DataFrame, key: list[str], order: list[str]) -> pd.DataFrame:
    """Keeps what comes last, all of it, among the rows that are alike in a key."""
    rank = table.groupby(order).ngroup()
    last = rank.groupby([table[name] for name in key], sort=False).transform("max")
    kept: pd.DataFrame = table[rank == last]
    return kept


def _versions(asv: pd.DataFrame) -> "pd.Series[str]":
    """Returns the newest version of each benchmark: asv compares no others with it."""
    by_time = asv.sort_values(["started", "version"])
    last: pd.Series[str] = by_time.drop_duplicates("benchmark", keep="last").set_index("benchmark")[
        "version"
    ]
    return last


def _without_what_runs_tell(table: pd.DataFrame, long: pd.DataFrame) -> pd.DataFrame:
    # asv stores no step size, so a run with another one counts as well; the suite's own run, which
    # is journalled like any other, has the step size that is meant.
    alike = (long[list(_REST)] == pd.Series(_REST)).all(axis=1)
    runs = long.loc[alike, [*_PLACE, "metric"]].assign(cell="")
    both = pd.concat([table[[*_PLACE, "metric"]], runs])
    place = both.groupby(list(_PLACE), sort=False, dropna=False).ngroup().to_numpy()
    value = both.assign(place=place).groupby(["place", "metric"], sort=False).ngroup().to_numpy()
    size = len(table)
    measured = table["value"].notna().to_numpy()
    somewhere = np.union1d(place[size:], place[:size][measured])
    kept = np.where(
        measured, ~np.isin(value[:size], value[size:]), ~np.isin(place[:size], somewhere)
    )
    table = table.assign(place=place[:size], metric=table["metric"].where(measured, ""))[kept]
    table = table.sort_values(["outcome"], kind="stable")  # "failed" before "skipped"
    again = (table["metric"] == "") & table.duplicated(["place", "metric"])
    return table[~again].drop(columns="place")


def _fingerprints(table: pd.DataFrame, long: pd.DataFrame) -> "pd.Series[str]":
    """Returns the fingerprint of each row's machine, "" where its name alone does not tell it."""
    found = pd.Series("", index=table.index, dtype=str)
    for key in (["machine"], ["machine", "commit"]):
        one = long[[*key, "fingerprint"]].drop_duplicates().drop_duplicates(key, keep=False)
        told = table[key].merge(one, on=key, how="left")["fingerprint"].set_axis(table.index)
        found = told.fillna(found)
    return found


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Names the cells of the matrix."""
    points = table[list(POINT)].drop_duplicates()
    names = [_name(*point) for point in points.itertuples(index=False)]
    points = points.assign(
        cell=pd.Series([cell for cell, _ in names], index=points.index, dtype=str),
        step_size=pd.Series([size for _, size in names], index=points.index, dtype=float),
    )
    named = table.drop(columns="cell").merge(points, on=list(POINT), how="left")
    return named.assign(**_REST)


def _name(
    estimator: str, task: str, model: str, depth: int, device: str
) -> tuple[str, float | None]:
    from harness.cell import Cell  # imports torch: only where runs do not tell the same

    try:
        cell = Cell.of(estimator=estimator, task=task, model=model, depth=depth, device=device)
    except OptionError:  # an estimator, task or model of another version, or of a plug-in
        return f"{task}/{model}/K{depth}/{estimator}/{device}", None
    return cell.id, cell.step_size
