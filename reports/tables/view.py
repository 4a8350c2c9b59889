"""The rows that a reader has chosen to look at, from wide to narrow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import pandas as pd

from reports.tables.advice import advise
from reports.tables.cells import samples
from reports.tables.snapshot import Snapshot


@dataclass(frozen=True)
class View:
    """Rows of the table of cells under a reader's filters.

    Attributes:
        snapshot: the store.
        version: rows of the chosen machine and commit.
        task: those of the chosen task and device.
        setting: those of the chosen model, dtype, step size, seed, number of tasks and
            meta-training: what may stand in one figure, depths side by side.
        here: those of the chosen depth.
        families: the chosen estimators, to which all of these are confined; all if empty.
        budgets: the limits of `reports.tables.advice.advise`.
        metric: the one whose history is shown; the headline ones if empty.
        trainings: the chosen ones; all of the store if None.
    """

    snapshot: Snapshot
    version: pd.DataFrame
    task: pd.DataFrame
    setting: pd.DataFrame
    here: pd.DataFrame
    families: list[str] = field(default_factory=list)
    budgets: Mapping[str, float | None] = field(default_factory=dict)
    metric: str = ""
    trainings: pd.DataFrame | None = None

    @classmethod
    def of_store(cls, snapshot: Snapshot) -> Self:
        """Return the view without any choice of cells, for what shows a whole store."""
        none = snapshot.cells.head(0)
        return cls(snapshot, none, none, none, none)

    @cached_property
    def errors(self) -> pd.DataFrame:
        """The bias on each task of the rows at the chosen depth."""
        return samples(self.snapshot.long, self.here, "bias")

    @cached_property
    def advice(self) -> pd.DataFrame:
        """The ranking of the rows at the chosen depth, within the budgets."""
        return advise(self.here, errors=self.errors, **self.budgets)

    @property
    def models(self) -> pd.DataFrame:
        """Rows of the task that differ from those at the chosen depth only in their model."""
        return self._alike("rest", "trained", "depth")

    @property
    def curves(self) -> pd.DataFrame:
        """Rows of the task that differ from those at the chosen depth only in model or depth."""
        return self._alike("rest", "trained")

    @property
    def training(self) -> pd.DataFrame:
        """Rows of the task that differ from those at the chosen depth only in meta-training."""
        return self._alike("model", "rest", "depth")

    def _alike(self, *columns: str) -> pd.DataFrame:
        if self.here.empty:
            return self.here
        first = self.here.iloc[0]
        alike = pd.Series(True, index=self.task.index)
        for column in columns:
            alike &= self.task[column] == first[column]
        return self.task[alike]
