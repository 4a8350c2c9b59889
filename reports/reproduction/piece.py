"""What a reproduced figure or table consists of, and what it is made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.reproduction import EXPERIMENTS, Scale
from harness.results.trainings import outer_text
from reports.figures.style import Chart
from reports.tables.snapshot import Snapshot

_OF_TRAINING = (
    *("estimator", "task", "model", "depth", "step_size", "device", "dtype", "seed", "outer"),
)

DECADES = [10.0**power for power in range(-9, 7)]
"""Where a log axis has lines."""


@dataclass(frozen=True)
class Piece:
    """A figure or table of the paper, made anew.

    Attributes:
        name: "fig2", ..., which is also that of its files.
        title: what it shows.
        charts: each makes a figure, when it is shown.
        table: its numbers to read, those of the paper beside ours where they are known.
        data: all numbers behind it, one a row.
        told: sentences on what agrees with the paper and what does not.
    """

    name: str
    title: str
    charts: Sequence[Callable[[], Chart]]
    table: pd.DataFrame
    data: pd.DataFrame
    told: Sequence[str]


@dataclass(frozen=True)
class Found:
    """What a store has to make them from.

    Attributes:
        snapshot: cells; without any where the store has none.
        trainings: the table of `harness.results.trainings.trainings`.
    """

    snapshot: Snapshot
    trainings: pd.DataFrame

    def cells(self, name: str, scale: Scale) -> pd.DataFrame:
        """Returns the cells of a figure, of the newest commit and machine that has any.

        Args:
            name: of the figure.
            scale: at which it is made.
        """
        if self.snapshot.cells.empty:
            return self.snapshot.cells
        ids = {planned.cell.id for planned in EXPERIMENTS[name][scale].planned()}
        table = self.snapshot.cells
        rows = table[table["cell"].isin(ids) & (table["outcome"] == "ok")]
        return rows[rows["version"] == rows["version"].iloc[0]] if len(rows) else rows

    def trained(self, name: str, scale: Scale) -> pd.DataFrame:
        """Returns the evaluations of a figure's or table's trainings.

        Args:
            name: of the figure or table.
            scale: at which it is made.
        """
        wanted = set()
        for recipe in EXPERIMENTS[name][scale].recipes():
            axes = vars(recipe.training) | {"outer": outer_text(recipe.training.outer)}
            wanted.add(tuple(axes[axis] for axis in _OF_TRAINING))
        keys = zip(*(self.trainings[axis] for axis in _OF_TRAINING), strict=True)
        return self.trainings[np.array([key in wanted for key in keys], dtype=bool)]
