"""The table of cells, to search and to download."""

from io import BytesIO

import numpy as np
import pandas as pd
import streamlit as st

from harness.store.export import write_csv, write_parquet
from reports.pages import widgets
from reports.tables.text import readable
from reports.tables.view import View

_SEARCHED = (
    *("cell", "commit", "commit_label", "machine_label", "started", "outcome", "reason", "notes"),
)


def show(view: View) -> None:
    """Show the page."""
    every = st.toggle("All cells of the store", key="every", bind="query-params")
    words = st.text_input(
        "Search",
        key="search",
        bind="query-params",
        placeholder="words that a row must have, such as: binom failed",
    )
    rows = matches(view.snapshot.cells if every else view.here, words)
    st.markdown(f"{len(rows):,} cells")
    widgets.grid(readable(rows))

    def measurements() -> pd.DataFrame:
        return view.snapshot.long.merge(rows[["run", "cell"]], on=["run", "cell"])

    def csv() -> bytes:
        file = BytesIO()
        write_csv(measurements(), file)
        return file.getvalue()

    def parquet() -> bytes:
        file = BytesIO()
        write_parquet(measurements(), file)
        return file.getvalue()

    st.markdown("Every metric of these cells, one row each, with all samples:")
    left, right, _ = st.columns([1, 1, 4])
    # If the click ran the page again, it could forget the file before the browser has it.
    left.download_button("CSV", csv, "metagrad.csv", "text/csv", on_click="ignore")
    right.download_button(
        "Parquet",
        parquet,
        "metagrad.parquet",
        "application/vnd.apache.parquet",
        on_click="ignore",
    )


def matches(table: pd.DataFrame, words: str) -> pd.DataFrame:
    """Return the rows that have all words somewhere in their names, outcome, reason or notes."""
    text = table[list(_SEARCHED)].agg(" ".join, axis=1).str.lower() if words else table["cell"]
    has_all = np.ones(len(table), dtype=bool)
    for word in words.lower().split():
        has_all &= text.str.contains(word, regex=False).to_numpy()
    return table[has_all]
