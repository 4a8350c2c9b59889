"""What a reader has chosen to look at, from wide to narrow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

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
    """

    snapshot: Snapshot
    version: pd.DataFrame
    task: pd.DataFrame
    setting: pd.DataFrame
    here: pd.DataFrame
    families: list[str]

    @classmethod
    def of_nothing(cls, store: Path) -> Self:
        """Returns what is left of a store without cells, that may have trainings."""
        none = pd.DataFrame()
        return cls(Snapshot(store, none, none, []), none, none, none, none, [])

    @property
    def models(self) -> pd.DataFrame:
        """Rows of the task that differ from those at the chosen depth in their model alone."""
        return self._alike("rest", "trained", "depth")

    @property
    def curves(self) -> pd.DataFrame:
        """Rows of the task that differ from those at the chosen depth in model or depth alone."""
        return self._alike("rest", "trained")

    @property
    def training(self) -> pd.DataFrame:
        """Rows of the task that differ from those at the chosen depth in meta-training alone."""
        return self._alike("model", "rest", "depth")

    def _alike(self, *columns: str) -> pd.DataFrame:
        if self.here.empty:
            return self.here
        first = self.here.iloc[0]
        alike = pd.Series(True, index=self.task.index)
        for column in columns:
            alike &= self.task[column] == first[column]
        return self.task[alike]
