"""Changes of numbers over commits, and in one setting."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from harness.cell import AXES
from harness.matrix.metrics import METRICS, metric_of
from harness.store.events import Problem
from reports.tables.cells import family_and_order, in_few_parts

Key = tuple[Hashable, ...]

_MACHINE = ("machine", "fingerprint")
_NONE = np.array([], dtype=np.intp)
_AXES = tuple(key for key in AXES if key != "estimator")
_SETTING = (*_MACHINE, *_AXES)


@dataclass(frozen=True)
class History:
    """The numbers of a store over the commits of a repository."""

    series: pd.DataFrame  # the table of `harness.history.series.series`
    problems: list[Problem]  # files of pytest-benchmark that could not be read

    @classmethod
    def read(cls, store: Path, long: pd.DataFrame, repository: Path) -> Self:
        """Read runs, and the times of kernels beside them."""
        from harness.history.series import stored_history  # which few pages need

        series, problems = stored_history(store, long, repository)
        return cls(in_few_parts(series), problems)

    def of_setting(self, setting: Key, families: Sequence[str] = ()) -> pd.DataFrame:
        """Return the series of one setting."""
        rows = self.series.take(self._settings.get(setting, _NONE))
        names = rows["estimator"].unique()
        chosen = [one for one in names if not families or family_and_order(one)[0] in families]
        return rows[rows["estimator"].isin(chosen)]

    def beside_cells(self, setting: Key) -> pd.DataFrame:
        """Return the benchmarks on the machine of a setting that are no metrics of cells."""
        rows = self._beside
        return rows[(rows["machine"] == setting[0]) & (rows["fingerprint"] == setting[1])]

    # Searching all rows for each reader takes longer than all that is then made of them.
    @cached_property
    def _settings(self) -> Mapping[Any, Any]:
        return self.series.groupby(list(_SETTING), sort=False).indices

    @cached_property
    def _commits(self) -> Mapping[Any, Any]:
        return self.series.groupby([*_MACHINE, "commit"], sort=False).indices

    @cached_property
    def _beside(self) -> pd.DataFrame:
        return self.series[~self.series["metric"].isin(["", *METRICS])]

    @cached_property
    def changes(self) -> Callable[[Key, tuple[str, ...]], pd.DataFrame]:
        """Find the changes of all metrics of a setting, with some families of estimators."""
        from harness.history.changes import changes

        return lru_cache(100)(lambda setting, families: changes(self.of_setting(setting, families)))

    @cached_property
    def compare(self) -> Callable[[Key, str, str], pd.DataFrame]:
        """Compare two commits on the machine of a setting, in all settings."""
        from harness.history.compare import compare

        @lru_cache(10)
        def compared(machine: Key, base: str, head: str) -> pd.DataFrame:
            places = [self._commits.get((*machine, one), _NONE) for one in {base, head}]
            return compare(self.series.take(np.sort(np.concatenate(places))), base, head)

        return lambda setting, base, head: compared(setting[: len(_MACHINE)], base, head)


def setting_of(here: pd.DataFrame) -> Key:
    """Return the machine and the axes that rows of one setting have in common."""
    return tuple(here[column].iloc[0] for column in _SETTING)


def changes_table(changes: pd.DataFrame) -> pd.DataFrame:
    """Return changes under the names to read, in shown units."""
    table = _in_shown_units(changes, "before", "after")
    lasting = table["lasting"].map({True: "yes", False: "no"})
    table = table.assign(commit=table["commit"].str[:8], metric=_titles(table), lasting=lasting)
    columns = ["verdict", "commit", "subject", "estimator", "metric", "before", "after", "ratio"]
    return table[[*columns, "lasting", "p", "unmeasured"]].rename(
        columns={"unmeasured": "commits in between"}
    )


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return two commits side by side under the names to read, in shown units."""
    table = _in_shown_units(comparison, "value_base", "value_head")
    verdict = table["verdict"].where(table["differs"], "same")
    table = table.assign(
        metric=_titles(table).where(table["metric"] != "", "outcome"),
        verdict=verdict.where(table["where"] == "both", table["where"] + " only"),
    )
    names = {"value_base": "base", "value_head": "head"}
    names |= {"outcome_base": "outcome, base", "outcome_head": "outcome, head"}
    columns = ["verdict", "estimator", "metric", *names, "ratio", "p", *_AXES]
    return table[columns].rename(columns=names)


def _in_shown_units(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    scales = [metric_of(name).scale for name in rows["metric"]]
    return rows.assign(**{name: rows[name] / scales for name in columns})


def _titles(rows: pd.DataFrame) -> "pd.Series[str]":
    # Other benchmarks are shown under their own name.
    titles = {name: metric.title for name, metric in METRICS.items()}
    return rows["metric"].map(lambda name: titles.get(name, name))
