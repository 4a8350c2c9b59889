"""The parts of a reproduced figure or table, and the measurements that it is made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.commands.reproduce import EXPERIMENTS, Scale
from harness.store.trainings import TRAINING_AXES, outer_text
from reports.figures.style import Chart
from reports.reproduction.paper import BINOMIAL, Paper
from reports.tables.snapshot import Snapshot

# A training may be on any device.
_OF_TRAINING = (*(key for key in TRAINING_AXES if key != "device"), "outer")
_OF_RUN = ("estimator", "task", "depth", "seed")  # what tells trainings of one piece apart


@dataclass(frozen=True)
class Piece:
    """A figure or table of a paper, reproduced."""

    name: str  # "fig2", ..., which is also that of its files
    title: str
    charts: Sequence[Callable[[], Chart]]
    table: pd.DataFrame  # its numbers to read
    data: pd.DataFrame  # all numbers behind it
    notes: Sequence[str]  # where it was measured, and what is missing
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)  # ours beside the paper's
    paper: Paper = BINOMIAL

    @property
    def heading(self) -> str:
        """Name, title and paper."""
        return f"{self.name}: {self.title} ({self.paper.short})"


@dataclass(frozen=True)
class Measurements:
    """The measurements of a store that figures and tables are made from."""

    snapshot: Snapshot

    def cells(self, name: str, scale: Scale) -> pd.DataFrame:
        """Return the cells of a figure, of the commit and machine that has most of them."""
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
        """Return the evaluations of a figure's or table's trainings."""
        wanted = set()
        for config in EXPERIMENTS[name][scale].configs():
            axes = vars(config.training) | {"outer": outer_text(config.training.outer)}
            wanted.add(tuple(axes[axis] for axis in _OF_TRAINING))
        trainings, _ = self.snapshot.trainings
        keys = zip(*(trainings[axis] for axis in _OF_TRAINING), strict=True)
        return trainings[np.array([key in wanted for key in keys], dtype=bool)]

    def about(self, name: str, scale: Scale) -> list[str]:
        """Return sentences on where a piece was measured, and on its missing parts."""
        sources = EXPERIMENTS[name][scale]
        notes = []
        if planned := sources.planned():
            cells = self.cells(name, scale)
            notes += [f"Measured at {label}." for label in cells["version_label"].unique()]
            every = self.snapshot.cells
            same = every[every["version"].isin(cells["version"])]
            skipped = set(same.loc[same["outcome"] == "skipped", "cell"])
            lacking = {one.cell.id for one in planned} - set(cells["cell"]) - skipped
            if lacking:
                notes.append(f"Missing: {len(lacking)} of its {len(planned)} cells.")
        if configs := sources.configs():
            rows = self.trained(name, scale)
            rows = rows[rows["split"] == "test"]
            where = sorted(set(zip(rows["commit"].str[:8], rows["machine"], strict=True)))
            places = "; ".join(f"{commit or 'unknown commit'} on {at}" for commit, at in where)
            notes += [f"Trained at {places}."] if places else []
            ended = {*zip(*(rows[axis] for axis in _OF_RUN), strict=True)}
            planned_runs = {tuple(getattr(one.cell, axis) for axis in _OF_RUN) for one in configs}
            if left := planned_runs - ended:
                names = ", ".join(sorted({name for name, *_ in left}))
                notes.append(f"Missing: {len(left)} of {len(planned_runs)} trainings, of {names}.")
        return notes


def where_lower(lines: pd.DataFrame, one: str, other: str, depth: int) -> dict[str, Any]:
    """Return at which orders between 0 and K a line is below another; nothing without both.

    The columns of the table are lines, its rows their orders.
    """
    if not {one, other} <= {*lines}:
        return {}
    ratios = (lines[one] / lines[other]).loc[1 : depth - 1].dropna()
    if ratios.empty:
        return {}
    lower = ", ".join(str(order) for order in ratios.index[ratios < 1]) or "none"
    every = ", ".join(map(str, ratios.index))
    named = {"line": one, "beside": other, "lower at L": lower, "of L": every}
    return named | {"least ratio": ratios.min(), "largest ratio": ratios.max()}
