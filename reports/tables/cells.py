"""The table of cells: one row per version and cell, a column for each metric."""

from typing import Any

import numpy as np
import pandas as pd

from estimators.base.errors import OptionError
from estimators.base.registry import Spec
from harness.cell import AXES
from harness.matrix.metrics import METRICS

# Estimators whose order L goes from first-order MAML (L = 0) to the exact gradient (L = K).
ORDERED = ("truncated", "binom", "binom-chebyshev", "binom-released")
# Options that say how far an estimator goes, as its order L does, and what figures call them.
COUNTS = {"order": "order L", "products": "products", "terms": "terms"}
# What rows must have in common to stand in one figure; "rest" names the axes without a column.
_OF_SECTION = ("version", "task", "model", "device", "rest")
FILTERS = (*_OF_SECTION, "trained")
REST = tuple(key for key in AXES if key not in (*FILTERS, "depth", "estimator"))
REST_LABEL = ", ".join(AXES[key].label for key in REST)

_FIXED = (
    *("version", "version_label", "run", "started", "commit", "changes", "commit_label"),
    *("machine", "fingerprint", "machine_label", "cell", *AXES, "rest", "family", "order"),
    *("outcome", "reason", "notes"),
)
_MEASURED = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]


def cells(long: pd.DataFrame) -> pd.DataFrame:
    """Make one row per version and cell, from the newest run that has the cell.

    A version is a commit with its uncommitted changes on one machine, so that numbers of two
    machines never stand in one figure. Where the commit is unknown every run is its own version.
    Each metric has the columns NAME, NAME_low and NAME_high, in shown units; newest version first.
    Beside random estimators the others have no spread, and what one estimate is off is their bias.
    """
    if long.empty:  # every file of the store is broken
        return pd.DataFrame(columns=[*_FIXED, *_MEASURED])
    number = long.groupby(["run", "cell"], sort=False).ngroup()
    every = long[~number.duplicated()].reset_index(drop=True)  # the first has number 0, and so on
    every["version"] = _versions(every)
    by_time = every.sort_values(["started", "run"], kind="stable")
    table = by_time.drop_duplicates(["version", "cell"], keep="last")
    table = pd.concat([table, _measured(long, number, table.index)], axis=1)
    names = {text: family_and_order(text) for text in table["estimator"].unique()}
    table["family"] = [names[text][0] for text in table["estimator"]]
    table["order"] = pd.array([names[text][1] for text in table["estimator"]], dtype="Int64")
    table["rest"] = [
        ", ".join(f"{AXES[key].mark} {value}".strip() for key, value in zip(REST, row, strict=True))
        for row in zip(*(table[key] for key in REST), strict=True)
    ]
    table["commit_label"] = _commit_labels(table)
    table["machine_label"] = _machine_labels(table)
    newest = table.groupby("version")["started"].transform("max")
    when = newest.str.slice(0, 16).str.replace("T", " ")
    table["version_label"] = table["commit_label"] + ", " + when + " UTC, " + table["machine_label"]
    if table["rmse"].notna().any():
        table = of_one_estimate(table, into="rmse")
        table["spread"] = table["spread"].fillna(table["bias"] * 0)
    table = table.assign(newest=newest).sort_values(
        ["newest", *FILTERS, "depth", "family", "order"],
        ascending=[False] + [True] * (len(FILTERS) + 3),
        kind="stable",
    )
    return table[[*_FIXED, *_MEASURED]].reset_index(drop=True)


def _commit_labels(table: pd.DataFrame) -> "pd.Series[str]":
    """Name the code of each row, by as much of commit and digest as makes names differ."""
    commits = table["commit"]
    whole = commits.nunique()
    length = next((n for n in (8, 16, 32) if commits.str[:n].nunique() == whole), None)
    labels = commits.str[:length].where(commits != "", "unknown commit, run " + table["run"])
    labels = labels.where(table["changes"] == "", labels + " (uncommitted changes)")
    alike = table["changes"].groupby(labels).transform("nunique") > 1
    return labels.where(~alike, labels + " " + table["changes"])


def _machine_labels(table: pd.DataFrame) -> "pd.Series[str]":
    """Name the machine of each row, with its fingerprint where two have the same name."""
    alike = table.groupby("machine")["fingerprint"].transform("nunique") > 1
    return table["machine"].where(
        ~alike, table["machine"] + " (" + table["fingerprint"].str[:6] + ")"
    )


def _versions(table: pd.DataFrame) -> "pd.Series[str]":
    known = table["commit"] + "+" + table["changes"]
    code = known.where(table["commit"] != "", "run " + table["run"])
    return code + "@" + table["machine"] + "+" + table["fingerprint"]


def _measured(long: pd.DataFrame, number: "pd.Series[int]", chosen: pd.Index) -> pd.DataFrame:
    """Return the columns of metrics, in shown units."""
    place = np.full(number.max() + 1, -1)
    place[chosen] = np.arange(len(chosen))
    row = place[number.to_numpy()]  # -1 where another run is newer
    rows_of = long.groupby("metric", sort=False).indices
    measured = dict.fromkeys(_MEASURED, np.full(len(chosen), np.nan))
    for name, entry in METRICS.items():
        all_rows = np.array(rows_of.get(name, ()), dtype=np.intp)
        rows = all_rows[row[all_rows] >= 0]
        for column, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            numbers = np.full(len(chosen), np.nan)
            numbers[row[rows]] = long[column].to_numpy()[rows] / entry.scale
            measured[name + end] = numbers
    return pd.DataFrame(measured, index=chosen)


def is_random(table: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows are of random estimators."""
    spread: pd.Series[bool] = table["spread"] > 0
    return spread


def has_two_truths(table: pd.DataFrame) -> bool:
    """Return whether inner steps may be drawn, so that the bias is to exact ones (T1) only."""
    return "bias_t2" in table and bool(table["bias_t2"].notna().any())


def of_one_estimate(table: pd.DataFrame, into: str = "bias") -> pd.DataFrame:
    """Return the rows with what one estimate is off in the columns of a metric.

    That is the rmse of a random estimator, whose bias may be 0, and the bias of any other.
    """
    known = table["rmse"].notna()
    ends = ("", "_low", "_high")
    off = {f"{into}{end}": table[f"rmse{end}"].where(known, table[f"bias{end}"]) for end in ends}
    return table.assign(**off)


def in_few_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose rows can be selected ten times as quickly.

    pandas stores each column of strings separately; objects, once copied, are stored together.
    """
    return table.astype(dict.fromkeys(table.select_dtypes("str"), object)).copy()


def samples(long: pd.DataFrame, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return all samples of a metric, a row for each task or repetition, in the shown unit.

    The same "sample", counted from 0, is the same task in all cells of a group.
    """
    names = ["run", "cell", "task", "model", "depth", "estimator", "family", "order"]
    names += ["trained", "seed", "rest", "machine", "commit_label"]
    table = rows[names].merge(
        long.loc[long["metric"] == metric, ["run", "cell", "samples"]], on=["run", "cell"]
    )
    numbers = pd.Series([np.arange(len(one)) for one in table["samples"]], dtype=object)
    table = table.assign(sample=numbers).explode(["sample", "samples"], ignore_index=True)
    value = table.pop("samples").astype(float) / METRICS[metric].scale
    return table.assign(sample=table["sample"].astype(int), value=value)


def choices(table: pd.DataFrame, column: str) -> list[Any]:
    """Return the different values of a column, in the order of the table."""
    return table[column].drop_duplicates().to_list()


def latest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the newest commit, on every machine that has run it."""
    if table.empty:
        return table
    commit = table["version"].iloc[0].partition("@")[0]
    newest: pd.DataFrame = table[[one.partition("@")[0] == commit for one in table["version"]]]
    return newest


def sections(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Split a table into parts that differ only in depth, estimator and meta-training.

    Parts of which every cell was skipped are left out.
    """
    parts = [part for _, part in table.groupby(list(_OF_SECTION), sort=False)]
    return [part for part in parts if (part["outcome"] != "skipped").any()]


def by_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `ORDERED` estimators from order 0 to K.

    fomaml is order 0 of each of them and maml is order K; they stand in where the estimator
    itself was not measured at that order. "line" is the estimator without its order.
    """
    ordered = table[table["family"].isin(ORDERED) & table["order"].notna()]
    ordered = ordered.assign(line=ordered["estimator"].map(without_order))
    # One point for each end, whatever else was measured of these two.
    first = table[table["estimator"] == "fomaml"].assign(order=0)
    exact = table[table["estimator"] == "maml"]
    ends = pd.concat([first, exact.assign(order=exact["depth"])])
    lines = []
    for line, own in ordered.groupby("line", sort=False):
        taken = own.loc[own["bias"].notna(), "order"]
        lines.append(pd.concat([own, ends[~ends["order"].isin(taken)].assign(line=line)]))
    return pd.concat(lines) if lines else table.head(0).assign(line="")


def without_order(text: str) -> str:
    """Return an estimator's specification without its order: the same one for a line of orders.

    Example:
        >>> without_order("binom(engine='finite-difference', order=2)")
        "binom(engine='finite-difference')"
    """
    try:
        spec = Spec.parse(text)
    except OptionError:
        return text
    order = count_of(spec)
    options = {name: value for name, value in spec.options.items() if name != order}
    return str(Spec(spec.name, options))


def family_and_order(text: str) -> tuple[str, int | None]:
    """Return name and order of a specification; one that cannot be parsed is its own name.

    Example:
        >>> family_and_order("binom(order=2)"), family_and_order("krylov(products=4)")
        (('binom', 2), ('krylov', 4))
    """
    try:
        spec = Spec.parse(text)
    except OptionError:
        return text, None
    order = count_of(spec)
    return spec.name, spec.options[order] if order else None


def count_of(spec: Spec) -> str | None:
    """Return the option of `COUNTS` that stands for the order of an estimator, if it has any."""
    return next((name for name in COUNTS if type(spec.options.get(name)) is int), None)
