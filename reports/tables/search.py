"""Rows that a reader looks for."""

import numpy as np
import pandas as pd

_SEARCHED = (
    *("cell", "commit", "commit_label", "machine_label", "started", "outcome", "reason", "notes"),
)


def found(table: pd.DataFrame, words: str) -> pd.DataFrame:
    """Returns the rows that have all words somewhere in their names, outcome, reason or notes."""
    text = table[list(_SEARCHED)].agg(" ".join, axis=1).str.lower() if words else table["cell"]
    has_all = np.ones(len(table), dtype=bool)
    for word in words.lower().split():
        has_all &= text.str.contains(word, regex=False).to_numpy()
    return table[has_all]


def measurements(long: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns what the long table has of the cells of some rows."""
    return long.merge(rows[["run", "cell"]], on=["run", "cell"])
