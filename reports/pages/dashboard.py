"""The dashboard: one page a question, with one bar of filters."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread

import streamlit as st

from estimators.base.registry import create
from harness.support.markdown import plain
from reports.pages import overview, widgets
from reports.pages.filters import filtered
from reports.tables.snapshot import Snapshot, read, stamp
from reports.tables.view import View

# Pages with controls have a module, imported when they are opened (the first is there when the
# server starts); the others are their sections.
_PAGES = {
    "Overview": overview.__name__,
    "Trade-offs": "reports.pages.tradeoffs",
    "Bias": "",
    "Cost": "",
    "Accuracy": "reports.pages.accuracy",
    "Reproduction": "",
    "History": "reports.pages.history",
    "Cell": "reports.pages.cell",
    "Data": "reports.pages.data",
}
_OF_TRAININGS = ("Accuracy", "Reproduction")


def main() -> None:
    """Show the store that METAGRAD_STORE names, or ./results."""
    st.set_page_config(page_title="metagrad-bench", layout="wide")
    store = _store()
    title = _chosen_page()
    st.title(title)
    with st.spinner("Reading results"):
        snapshot = _snapshot(stamp(store), store)
    widgets.problems(snapshot.problems)
    if title in _OF_TRAININGS:
        widgets.problems(snapshot.trainings[1])
    if not snapshot.cells.empty:
        _show(title, filtered(snapshot))
    elif snapshot.trainings[0].empty:
        st.info(plain(snapshot.missing or f"no results in {store} yet; `make bench` makes some"))
    elif title in _OF_TRAININGS:
        _show(title, View.of_store(snapshot))
    else:
        st.info("Only trainings here yet: see the page Accuracy, or run `make bench`.")


def _show(title: str, view: View) -> None:
    if module := _PAGES[title]:
        import_module(module).show(view)
    else:
        widgets.sections(title, view)
    _import_estimators()


@st.cache_resource(show_spinner=False)
def _import_estimators() -> None:
    """Import estimators, and torch, for the page Cost while a reader looks at the first page."""
    Thread(target=create, args=["maml"], daemon=True).start()


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncGenerator[None]:
    """Read the store when the server starts, while the first browser still loads the page."""

    def read_store() -> None:
        store = _store()
        _snapshot(stamp(store), store)

    reading = asyncio.create_task(asyncio.to_thread(read_store))
    try:
        yield
    finally:
        await reading


def _store() -> Path:
    return Path(os.environ.get("METAGRAD_STORE", "results"))


def _chosen_page() -> str:
    """Draw the list of pages; return which of them is open."""
    opened: list[str] = []

    def page(title: str) -> st.Page:
        def run() -> None:
            opened.append(title)

        return st.Page(run, title=title, url_path=title.lower(), default=title == "Overview")

    st.navigation([page(title) for title in _PAGES], position="top").run()
    return opened[0]


@st.cache_resource(max_entries=2, show_spinner=False)  # which could not be shown before a page
def _snapshot(stamp: str, _store: Path) -> Snapshot:
    """Read a store; the stamp is for the cache, which forgets when a file changes."""
    del stamp
    return read(_store)
