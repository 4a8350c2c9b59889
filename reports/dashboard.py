"""The dashboard: one page a question, over one bar of filters."""

import os
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from harness.results.store import StoreError
from reports.filters import choose
from reports.markdown import plain
from reports.pages import accuracy, bias, cell, cost, data, history, overview, parts, tradeoffs
from reports.tables.snapshot import Snapshot, Stamp, read, stamp
from reports.tables.view import View

_PAGES: tuple[tuple[str, Callable[[View], None]], ...] = (
    ("Overview", overview.show),
    ("Trade-offs", tradeoffs.show),
    ("Bias", bias.show),
    ("Cost", cost.show),
    ("Accuracy", accuracy.show),
    ("History", history.show),
    ("Cell", cell.show),
    ("Data", data.show),
)


def main() -> None:
    """Shows the store that METAGRAD_STORE names, or ./results."""
    st.set_page_config(page_title="metagrad-bench", layout="wide")
    store = Path(os.environ.get("METAGRAD_STORE", "results"))
    title, show = _chosen_page()
    st.title(title)
    try:
        snapshot = _snapshot(str(store), stamp(store))
    except StoreError as error:
        st.info(plain(str(error)))
        return
    parts.problems(snapshot.problems)
    if snapshot.cells.empty:
        st.info(f"No results in {plain(str(store))} yet: run `make bench`, then reload this page.")
        return
    show(choose(snapshot))


def _chosen_page() -> tuple[str, Callable[[View], None]]:
    """Draws the list of pages; returns which of them is open."""
    opened: list[tuple[str, Callable[[View], None]]] = []

    def page(title: str, show: Callable[[View], None]) -> st.Page:
        def run() -> None:
            opened.append((title, show))

        return st.Page(run, title=title, url_path=title.lower(), default=show is overview.show)

    st.navigation([page(*one) for one in _PAGES], position="top").run()
    return opened[0]


@st.cache_resource(max_entries=2, show_spinner="Reading results")
def _snapshot(store: str, stamp: Stamp) -> Snapshot:
    """Reads a store; the stamp is there for the cache, which forgets when a file changes."""
    del stamp
    return read(Path(store))
