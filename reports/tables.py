"""From the long table of the store to what figures and pages show."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from estimators.errors import OptionError
from estimators.registry import Spec
from harness.results.runs import read_run
from reports.quantities import QUANTITIES

# Estimators whose order L goes from first-order MAML (L = 0) to the exact gradient (L = K).
ORDERED = ("truncated", "binom", "binom-calibrated", "binom-released")
# What a person chooses, in this order; "rest" names the axes that have no filter of their own.
FILTERS = ("version", "task", "model", "device", "rest")

_FIXED = (
    *("version", "version_label", "run", "started", "commit", "commit_label", "machine", "cell"),
    *("task", "model", "device", "rest", "depth", "estimator", "family", "order"),
    *("outcome", "reason", "notes"),
)
_MEASURED = [f"{name}{end}" for name in QUANTITIES for end in ("", "_low", "_high")]
_SUMMARY = ("bias", "time_ratio", "peak_memory", "flops", "hvps", "serial_depth")


def cells(long: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per version and cell, from the newest run that has the cell.

    A version is a commit with its uncommitted changes on one machine, so that numbers of two
    machines never stand in one figure. Where the commit is unknown every run is its own version.

    Args:
        long: the table of `harness.results.store.load`.

    Returns:
        Axes, outcome and, for every metric, the columns NAME, NAME_low and NAME_high in the units
        of `QUANTITIES` (NaN where not measured); newest version first, then by estimator.
    """
    if long.empty:  # every file of the store is broken
        return pd.DataFrame(columns=[*_FIXED, *_MEASURED])
    number = long.groupby(["run", "cell"], sort=False).ngroup()
    every = long[~number.duplicated()].reset_index(drop=True)  # the first has number 0, and so on
    every["version"] = _versions(every)
    by_time = every.sort_values(["started", "run"], kind="stable")
    table = by_time.drop_duplicates(["version", "cell"], keep="last")
    table = pd.concat([table, _measured(long, number, table.index)], axis=1)
    names = {text: _family_and_order(text) for text in table["estimator"].unique()}
    table["family"] = [names[text][0] for text in table["estimator"]]
    table["order"] = pd.array([names[text][1] for text in table["estimator"]], dtype="Int64")
    table["rest"] = [
        f"{dtype}, alpha {alpha:g}, seed {seed}, tasks {tasks}"
        + (f", trained {trained}" if trained else "")
        for dtype, alpha, seed, tasks, trained in zip(
            *(table[axis] for axis in ("dtype", "step_size", "seed", "tasks", "trained")),
            strict=True,
        )
    ]
    table["commit_label"] = [
        (str(commit)[:8] or "unknown commit") + (" (uncommitted changes)" if changes else "")
        for commit, changes in zip(table["commit"], table["changes"], strict=True)
    ]
    newest = table.groupby("version")["started"].transform("max")
    table["version_label"] = (
        table["commit_label"]
        + ", "
        + newest.str.slice(0, 16).str.replace("T", " ")
        + " UTC, "
        + table["machine"]
    )
    table = table.assign(newest=newest).sort_values(
        ["newest", "version", "task", "model", "device", "rest", "depth", "family", "order"],
        ascending=[False] + [True] * 8,
        kind="stable",
    )
    return table[[*_FIXED, *_MEASURED]].reset_index(drop=True)


def _versions(table: pd.DataFrame) -> "pd.Series[str]":
    known = table["commit"] + "+" + table["changes"]
    code = known.where(table["commit"] != "", "run " + table["run"])
    return code + "@" + table["machine"] + "+" + table["fingerprint"]


def _measured(long: pd.DataFrame, number: "pd.Series[int]", kept: pd.Index) -> pd.DataFrame:
    """Returns the columns of metrics, in the units that are shown.

    Args:
        long: the table of `harness.results.store.load`.
        number: of the cell of a run that each of its rows belongs to.
        kept: numbers to return, a row each.
    """
    place = np.full(number.max() + 1, -1)
    place[kept] = np.arange(len(kept))
    row = place[number.to_numpy()]  # -1 where another run is newer
    rows_of = long.groupby("metric", sort=False).indices
    found = pd.DataFrame(np.nan, index=kept, columns=_MEASURED)
    for name, quantity in QUANTITIES.items():
        all_rows = np.array(rows_of.get(name, ()), dtype=np.intp)
        rows = all_rows[row[all_rows] >= 0]
        for column, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            numbers = np.full(len(kept), np.nan)
            numbers[row[rows]] = long[column].to_numpy()[rows] / quantity.size
            found[name + end] = numbers
    return found


def choices(table: pd.DataFrame, column: str) -> list[Any]:
    """Returns the different values of a column, in the order of the table.

    Args:
        table: rows of `cells`.
        column: one of `FILTERS`, or "depth".
    """
    return table[column].drop_duplicates().to_list()


def latest(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the newest commit, on every machine that has run it.

    Args:
        table: the table of `cells`.
    """
    if table.empty:
        return table
    commit = table["version"].iloc[0].partition("@")[0]
    newest: pd.DataFrame = table[[one.partition("@")[0] == commit for one in table["version"]]]
    return newest


def sections(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Splits a table into parts that may stand in one figure, depths side by side.

    Parts of which every cell was skipped are left out; see `skipped_whole`.

    Args:
        table: rows of `cells`.
    """
    parts = [part for _, part in table.groupby(list(FILTERS), sort=False)]
    return [part for part in parts if (part["outcome"] != "skipped").any()]


def skipped_whole(table: pd.DataFrame) -> list[str]:
    """Returns a line for each part of which every cell was skipped, with the commonest reason.

    Args:
        table: rows of `cells`.
    """
    lines = []
    for _, part in table.groupby(list(FILTERS), sort=False):
        if (part["outcome"] == "skipped").all():
            row, reason = part.iloc[0], part["reason"].value_counts().index[0]
            lines.append(f"{row['task']}, {row['model']}, {row['device']}: {reason}")
    return lines


def by_order(table: pd.DataFrame) -> pd.DataFrame:
    """Returns what `ORDERED` estimators do from order 0 to K.

    fomaml is order 0 of each of them and maml is order K; they stand in where the estimator
    itself was not measured at that order.

    Args:
        table: rows of `cells`, of one depth.

    Returns:
        Rows with one column more: "line", the estimator to whose line the row belongs.
    """
    lines = []
    for line in ORDERED:
        own = table[(table["family"] == line) & table["order"].notna()]
        if own.empty:
            continue
        first = table[table["family"] == "fomaml"].assign(order=0)
        exact = table[table["estimator"] == "maml"]
        ends = pd.concat([first, exact.assign(order=exact["depth"])])
        taken = own.loc[own["bias"].notna(), "order"]
        lines.append(pd.concat([own, ends[~ends["order"].isin(taken)]]).assign(line=line))
    return pd.concat(lines) if lines else table.head(0).assign(line="")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns to read, under the names to read.

    Args:
        table: rows of `cells`, of one depth.
    """
    titles = {name: QUANTITIES[name].title for name in _SUMMARY}
    return table[["estimator", *titles, "outcome", "reason", "notes"]].rename(columns=titles)


def disturbed(table: pd.DataFrame) -> str:
    """Returns a sentence on the timings that something disturbed; empty where nothing did.

    Args:
        table: rows of `cells`.
    """
    noted = table.loc[table["notes"] != "", "notes"]
    if noted.empty:
        return ""
    example = noted.value_counts().index[0]
    return f"{len(noted)} of {len(table)} timings were disturbed, such as: {example}."


def as_text(table: pd.DataFrame) -> list[list[str]]:
    """Returns the rows of a table as text, numbers with three significant digits.

    Args:
        table: any table.
    """
    return [[_text(value) for value in row] for row in table.itertuples(index=False)]


def not_ok(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the cells that did not end well, and why.

    Args:
        table: rows of `cells`.
    """
    bad = table[table["outcome"] != "ok"]
    return bad[["depth", "estimator", "outcome", "reason"]].rename(columns={"depth": "depth K"})


def environments(store: Path, table: pd.DataFrame) -> list[dict[str, str]]:
    """Reads what the runs behind a table were made with, the newest run of each version.

    Args:
        store: the folder of results.
        table: rows of `cells`.

    Returns:
        For each version its facts, by name.
    """
    newest = table.sort_values(["started", "run"]).drop_duplicates("version", keep="last")
    found = []
    for row in newest.itertuples():
        made = read_run(store / "runs" / f"{row.run}.jsonl").environment
        packages = made.get("packages") or {}
        facts = {
            "commit": (made["commit"] or "unknown")
            + (" (uncommitted changes)" if made["changes"] else ""),
            "newest run": str(row.started),
            "machine": made["machine"],
            "processor": f"{made.get('processor', '')}, {made.get('cores', '')} cores",
            "memory": f"{(made.get('memory') or 0) / 2**30:.1f} GiB",
            "devices": ", ".join(["cpu", *made.get("devices", [])]),
            "plug-ins": ", ".join(made.get("plugins") or ["none"]),
            "system": made.get("system", ""),
            "threads": made.get("threads", ""),
            "python": made.get("python", ""),
            **{name: version for name, version in packages.items() if version},
        }
        found.append({key: str(value) for key, value in facts.items()})
    return found


def _family_and_order(text: str) -> tuple[str, int | None]:
    try:
        spec = Spec.parse(text)
    except OptionError:
        return text, None
    order = spec.options.get("order")
    return spec.name, order if type(order) is int else None


def _text(value: Any) -> str:
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.3g}"
    return str(value)
