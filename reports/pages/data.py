"""The table of cells, to search and to take away."""

from io import BytesIO

import streamlit as st

from harness.store.export import write_csv, write_parquet
from reports.pages import widgets
from reports.tables.search import found, measurements
from reports.tables.text import readable
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    every = st.toggle("Everything in the store", key="every", bind="query-params")
    words = st.text_input(
        "Search",
        key="search",
        bind="query-params",
        placeholder="words that a row must have, such as: binom failed",
    )
    rows = found(view.snapshot.cells if every else view.here, words)
    long = view.snapshot.long
    st.markdown(f"{len(rows):,} cells")
    widgets.grid(readable(rows))

    def csv() -> bytes:
        file = BytesIO()
        write_csv(measurements(long, rows), file)
        return file.getvalue()

    def parquet() -> bytes:
        file = BytesIO()
        write_parquet(measurements(long, rows), file)
        return file.getvalue()

    st.markdown("Every metric of these cells, one row each, with all samples:")
    left, right, _ = st.columns([1, 1, 4])
    # Were the page run again by the click, it could forget the file before the browser has it.
    left.download_button("CSV", csv, "metagrad.csv", "text/csv", on_click="ignore")
    right.download_button(
        "Parquet",
        parquet,
        "metagrad.parquet",
        "application/vnd.apache.parquet",
        on_click="ignore",
    )
