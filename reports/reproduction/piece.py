"""What a reproduced figure or table consists of, and what it is made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.commands.reproduce import EXPERIMENTS, Scale
from harness.store.trainings import outer_text
from reports.figures.style import Chart
from reports.tables.snapshot import Snapshot

# A training may be on any device.
_OF_TRAINING = ("estimator", "task", "model", "depth", "step_size", "dtype", "seed", "outer")


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
        trainings: the table of `harness.store.trainings.trainings`.
    """

    snapshot: Snapshot
    trainings: pd.DataFrame

    def cells(self, name: str, scale: Scale) -> pd.DataFrame:
        """Returns the cells of a figure, of the commit and machine that has most of them."""
        table = self.snapshot.cells
        if table.empty:
            return table
        ids = {planned.cell.id for planned in EXPERIMENTS[name][scale].planned()}
        rows = table[table["cell"].isin(ids) & (table["outcome"] == "ok")]
        if rows.empty:
            return rows
        counts = rows["version"].value_counts(sort=False)  # newest first, as the table is
        return rows[rows["version"] == counts.idxmax()]

    def trained(self, name: str, scale: Scale) -> pd.DataFrame:
        """Returns the evaluations of a figure's or table's trainings."""
        wanted = set()
        for recipe in EXPERIMENTS[name][scale].configs():
            axes = vars(recipe.training) | {"outer": outer_text(recipe.training.outer)}
            wanted.add(tuple(axes[axis] for axis in _OF_TRAINING))
        keys = zip(*(self.trainings[axis] for axis in _OF_TRAINING), strict=True)
        return self.trainings[np.array([key in wanted for key in keys], dtype=bool)]

    def about(self, name: str, scale: Scale) -> list[str]:
        """Returns sentences on what a piece was made with, and on what of it is missing."""
        sources = EXPERIMENTS[name][scale]
        told = []
        if planned := sources.planned():
            cells = self.cells(name, scale)
            told += [f"Measured at {label}." for label in cells["version_label"].unique()]
            every = self.snapshot.cells
            same = every[every["version"].isin(cells["version"])]
            skipped = set(same.loc[same["outcome"] == "skipped", "cell"])
            lacking = {one.cell.id for one in planned} - set(cells["cell"]) - skipped
            if lacking:
                told.append(f"Missing: {len(lacking)} of its {len(planned)} cells.")
        if recipes := sources.configs():
            rows = self.trained(name, scale)
            rows = rows[rows["split"] == "test"]
            where = sorted(set(zip(rows["commit"].str[:8], rows["machine"], strict=True)))
            made = "; ".join(f"{commit or 'unknown commit'} on {at}" for commit, at in where)
            told += [f"Trained at {made}."] if made else []
            ended = set(zip(rows["estimator"], rows["task"], rows["seed"], strict=True))
            asked = {(one.cell.estimator, one.cell.task, one.cell.seed) for one in recipes}
            if left := asked - ended:
                names = ", ".join(sorted({name for name, _, _ in left}))
                told.append(f"Missing: {len(left)} of {len(asked)} trainings, of {names}.")
        return told
