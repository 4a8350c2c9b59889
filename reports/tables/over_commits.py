"""How numbers changed over commits, and in one setting."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.history.series import stored_history
from harness.matrix.metrics import METRICS
from harness.store.events import Problem
from reports.tables.cells import family_and_order
from reports.tables.snapshot import Snapshot, in_few_parts

_Places = Mapping[Any, Any]  # pandas: places of rows, by what they have in common

_MACHINE = ("machine", "fingerprint")
_NONE = np.array([], dtype=np.intp)
_SETTING = (
    *(*_MACHINE, "task", "model", "depth", "step_size", "device", "dtype", "seed"),
    *("tasks", "trained"),
)


@dataclass(frozen=True)
class History:
    """What a store tells of the commits of a repository.

    Attributes:
        series: the table of `harness.history.series.series`.
        problems: files of pytest-benchmark that could not be read.
    """

    series: pd.DataFrame
    problems: list[Problem]

    def of_setting(self, here: pd.DataFrame, families: list[str]) -> pd.DataFrame:
        """Returns the series of one setting."""
        rows = self.series.take(self._settings.get(setting_of(here), _NONE))
        every = rows["estimator"].unique()
        kept = [one for one in every if not families or family_and_order(one)[0] in families]
        return rows[rows["estimator"].isin(kept)]

    def of_commits(self, here: pd.DataFrame, *commits: str) -> pd.DataFrame:
        """Returns all series of some commits on the machine of some rows."""
        machine = machine_of(here)
        places = [self._commits.get((*machine, commit), _NONE) for commit in commits]
        return self.series.take(np.sort(np.concatenate(places)))

    def beside_cells(self, here: pd.DataFrame) -> pd.DataFrame:
        """Returns what pytest-benchmark timed on one machine: no metrics of cells."""
        name, fingerprint = machine_of(here)
        rows = self._beside
        chosen: pd.DataFrame = rows[
            (rows["machine"] == name) & (rows["fingerprint"] == fingerprint)
        ]
        return chosen

    # Looking through all rows for each reader takes longer than all that is then made of them.
    @cached_property
    def _settings(self) -> _Places:
        return self.series.groupby(list(_SETTING), sort=False).indices

    @cached_property
    def _commits(self) -> _Places:
        return self.series.groupby([*_MACHINE, "commit"], sort=False).indices

    @cached_property
    def _beside(self) -> pd.DataFrame:
        return self.series[~self.series["metric"].isin(["", *METRICS])]


def read_history(snapshot: Snapshot, repository: Path) -> History:
    """Reads the history of a store: its runs and kernel times."""
    series, problems = stored_history(snapshot.store, snapshot.long, repository)
    return History(in_few_parts(series), problems)


def setting_of(here: pd.DataFrame) -> tuple[Hashable, ...]:
    """Returns what the rows of one setting have in common."""
    return tuple(here[column].iloc[0] for column in _SETTING)


def machine_of(here: pd.DataFrame) -> tuple[str, str]:
    """Returns name and fingerprint of the machine of some rows."""
    name, fingerprint = (here[column].iloc[0] for column in _MACHINE)
    return name, fingerprint


def changes_told(changes: pd.DataFrame) -> pd.DataFrame:
    """Returns changes as people read them."""
    told = _in_shown_units(changes, "before", "after")
    told["commit"] = told["commit"].str[:8]
    lasting = told["lasting"].map({True: "yes", False: "no"})
    told = told.assign(metric=_titles(told), lasting=lasting)
    columns = ["verdict", "commit", "subject", "estimator", "metric", "before", "after", "ratio"]
    return told[[*columns, "lasting", "p", "unmeasured"]].rename(
        columns={"unmeasured": "commits in between"}
    )


def compared(comparison: pd.DataFrame) -> pd.DataFrame:
    """Returns two commits side by side as people read them."""
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
    sizes = [METRICS[name].scale if name in METRICS else 1.0 for name in rows["metric"]]
    return rows.assign(**{name: rows[name] / sizes for name in columns})


def _titles(rows: pd.DataFrame) -> "pd.Series[str]":
    titles = {name: entry.title for name, entry in METRICS.items()}
    return rows["metric"].map(lambda name: titles.get(name, name))
