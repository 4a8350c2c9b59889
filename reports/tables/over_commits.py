"""How numbers changed over commits, and in one setting."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.history.stored import stored_history
from harness.results.store import Problem
from reports.quantities import QUANTITIES
from reports.tables.cells import family_and_order
from reports.tables.snapshot import Snapshot

_SETTING = (
    *("machine", "fingerprint", "task", "model", "depth", "step_size", "device", "dtype", "seed"),
    *("tasks", "trained"),
)


@dataclass(frozen=True)
class History:
    """What a store tells of the commits of a repository.

    Attributes:
        series: the table of `harness.history.series.series`.
        problems: files of asv and pytest-benchmark that could not be read.
    """

    series: pd.DataFrame
    problems: list[Problem]


def read_history(snapshot: Snapshot, repository: Path) -> History:
    """Reads the history of a store: its runs, and what asv and pytest-benchmark have kept in it.

    Args:
        snapshot: of the store.
        repository: a folder of the git repository whose commits were measured.
    """
    return History(*stored_history(snapshot.store, snapshot.long, repository))


def setting_of(here: pd.DataFrame) -> tuple[Hashable, ...]:
    """Returns what the rows of one setting have in common.

    Args:
        here: rows of the table of cells.
    """
    return tuple(here[column].iloc[0] for column in _SETTING)


def of_setting(series: pd.DataFrame, here: pd.DataFrame, families: list[str]) -> pd.DataFrame:
    """Returns the series of one setting.

    Args:
        series: see `History`.
        here: rows of the table of cells, of one setting.
        families: estimators to keep; all if empty.
    """
    same = pd.Series(True, index=series.index)
    for column, value in zip(_SETTING, setting_of(here), strict=True):
        same &= series[column] == value
    rows = series[same]
    kept = [not families or family_and_order(name)[0] in families for name in rows["estimator"]]
    return rows[np.array(kept, dtype=bool)]


def of_machine(series: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns all series of the machine that some are of.

    Args:
        series: see `History`.
        rows: some of them, of one machine.
    """
    first = rows.iloc[0]
    same = (series["machine"] == first["machine"]) & (series["fingerprint"] == first["fingerprint"])
    chosen: pd.DataFrame = series[same]
    return chosen


def beside_cells(series: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    """Returns what asv and pytest-benchmark timed that is no metric of a cell, on one machine.

    Args:
        series: see `History`.
        here: rows of the table of cells, of the machine.
    """
    rows = of_machine(series, here)
    return rows[~rows["metric"].isin(["", *QUANTITIES])]


def changes_told(changes: pd.DataFrame) -> pd.DataFrame:
    """Returns changes as people read them.

    Args:
        changes: from `harness.history.changes.changes`.
    """
    told = _in_shown_units(changes, "before", "after")
    told["commit"] = told["commit"].str[:8]
    lasting = told["lasting"].map({True: "yes", False: "no"})
    told = told.assign(metric=_titles(told), lasting=lasting)
    columns = ["verdict", "commit", "subject", "estimator", "metric", "before", "after", "ratio"]
    return told[[*columns, "lasting", "p", "unmeasured"]].rename(
        columns={"unmeasured": "commits in between"}
    )


def compared(comparison: pd.DataFrame) -> pd.DataFrame:
    """Returns two commits side by side as people read them.

    Args:
        comparison: from `harness.history.compare.compare`.
    """
    told = _in_shown_units(comparison, "value_base", "value_head")
    told = told.assign(metric=_titles(told).where(told["metric"] != "", "outcome"))
    verdict = told["verdict"].where(told["differs"], "same")
    told = told.assign(verdict=verdict.where(told["where"] == "both", told["where"] + " only"))
    names = {"value_base": "base", "value_head": "head"}
    names |= {"outcome_base": "outcome, base", "outcome_head": "outcome, head"}
    setting = ["task", "model", "depth", "device", "dtype", "step_size", "seed", "tasks", "trained"]
    columns = ["verdict", "estimator", "metric", *names, "ratio", "p", *setting]
    return told[columns].rename(columns=names)


def _in_shown_units(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    sizes = [QUANTITIES[name].size if name in QUANTITIES else 1.0 for name in rows["metric"]]
    return rows.assign(**{name: rows[name] / sizes for name in columns})


def _titles(rows: pd.DataFrame) -> "pd.Series[str]":
    titles = {name: quantity.title for name, quantity in QUANTITIES.items()}
    return rows["metric"].map(lambda name: titles.get(name, name))
