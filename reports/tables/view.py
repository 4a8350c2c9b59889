"""The rows that a reader has chosen to look at, from wide to narrow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import pandas as pd

from reports.tables.advice import advise
from reports.tables.cells import is_random, samples
from reports.tables.snapshot import Snapshot


@dataclass(frozen=True)
class View:
    """Rows of the table of cells under a reader's filters, each of them some of those before it."""

    snapshot: Snapshot
    version: pd.DataFrame  # of the chosen machine and commit
    task: pd.DataFrame  # of the chosen task and device
    setting: pd.DataFrame  # of the chosen model and so on: what may stand in one figure
    here: pd.DataFrame  # of the chosen depth
    families: list[str] = field(default_factory=list)  # of the estimators; all if empty
    budgets: Mapping[str, float | None] = field(default_factory=dict)  # of `advise`
    metric: str = ""  # whose history is shown; the headline ones if empty
    trainings: pd.DataFrame | None = None  # the chosen ones; all if None

    @classmethod
    def of_store(cls, snapshot: Snapshot) -> Self:
        """Return the view without any choice of cells, for what shows a whole store."""
        none = snapshot.cells.head(0)
        return cls(snapshot, none, none, none, none)

    @cached_property
    def biases(self) -> pd.DataFrame:
        """The bias on each task of the rows at the chosen depth, but for random estimators."""
        return samples(self.snapshot.long, self.here[~is_random(self.here)], "bias")

    @cached_property
    def errors(self) -> pd.DataFrame:
        """The same, and of random estimators what one estimate is off."""
        drawn = samples(self.snapshot.long, self.here[is_random(self.here)], "rmse")
        return pd.concat([self.biases, drawn]) if len(drawn) else self.biases

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
