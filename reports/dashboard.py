"""The dashboard: one page a question, over one bar of filters."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path

import streamlit as st

from harness.store.table import StoreError
from harness.support.markdown import plain
from reports.pages import overview, widgets
from reports.pages.filters import choose
from reports.tables.snapshot import Snapshot, Stamp, read, stamp
from reports.tables.view import View

# The first is there when the server starts. What the others need is imported when they are opened.
_PAGES = {
    **{"Overview": overview.__name__, "Trade-offs": "reports.pages.tradeoffs"},
    **{"Bias": "reports.pages.bias", "Cost": "reports.pages.cost"},
    **{"Accuracy": "reports.pages.accuracy", "Reproduction": "reports.pages.reproduction"},
    **{"History": "reports.pages.history", "Cell": "reports.pages.cell"},
    "Data": "reports.pages.data",
}
_OF_TRAININGS = ("Accuracy", "Reproduction")


def main() -> None:
    """Shows the store that METAGRAD_STORE names, or ./results."""
    st.set_page_config(page_title="metagrad-bench", layout="wide")
    store = _store()
    title = _chosen_page()
    st.title(title)
    try:
        with st.spinner("Reading results"):
            snapshot = _snapshot(stamp(store), store)
    except StoreError as error:
        _show_trainings(title, store, str(error))
        return
    widgets.problems(snapshot.problems)
    if snapshot.cells.empty:
        _show_trainings(title, store, f"no results in {store} yet; `make bench` makes some")
        return
    import_module(_PAGES[title]).show(choose(snapshot))


def _show_trainings(title: str, store: Path, why: str) -> None:
    """Shows a page of a store that has no cells, and so nothing to filter by."""
    if widgets.trainings_in(store)[0].empty:
        st.info(plain(why))
    elif title in _OF_TRAININGS:
        import_module(_PAGES[title]).show(View.of_nothing(store))
    else:
        st.info("Nothing but trainings here yet: see the page Accuracy, or run `make bench`.")


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncGenerator[None]:
    """Reads the store when the server starts, while the first browser still loads the page."""

    def read_ahead() -> None:
        with suppress(StoreError):  # told to whoever opens a page
            store = _store()
            _snapshot(stamp(store), store)

    reading = asyncio.create_task(asyncio.to_thread(read_ahead))
    try:
        yield
    finally:
        await reading


def _store() -> Path:
    return Path(os.environ.get("METAGRAD_STORE", "results"))


def _chosen_page() -> str:
    """Draws the list of pages; returns which of them is open."""
    opened: list[str] = []

    def page(title: str) -> st.Page:
        def run() -> None:
            opened.append(title)

        return st.Page(run, title=title, url_path=title.lower(), default=title == "Overview")

    st.navigation([page(title) for title in _PAGES], position="top").run()
    return opened[0]


@st.cache_resource(max_entries=2, show_spinner=False)  # which could not be shown before a page
def _snapshot(stamp: Stamp, _store: Path) -> Snapshot:
    """Reads a store; the stamp is there for the cache, which forgets when a file changes."""
    del stamp
    return read(_store)
