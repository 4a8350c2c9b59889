"""The dashboard: filters at the side, four figures, and the cells behind them."""

import os
import re
from contextlib import suppress
from pathlib import Path

import pandas as pd
import streamlit as st

from harness.results.store import Problem, StoreError, journals, load
from reports import figures, tables
from reports.quantities import QUANTITIES

_EXPLAINED = ("bias", "time_ratio", "peak_memory", "hvps", "serial_depth")

Stamp = tuple[tuple[str, int, int], ...]


def main() -> None:
    """Shows the page for the store that METAGRAD_STORE names, or ./results."""
    st.set_page_config(page_title="metagrad-bench", layout="wide")
    st.title("metagrad-bench")
    store = Path(os.environ.get("METAGRAD_STORE", "results"))
    try:
        table, problems = _cells(str(store), _stamp(store))
    except StoreError as error:
        st.info(_plain(str(error)))
        return
    for problem in problems:
        st.warning(_plain(str(problem)))
    if table.empty:
        st.info(f"No results in {_plain(str(store))} yet: run `make bench`, then reload this page.")
        return
    _page(table)


def _page(table: pd.DataFrame) -> None:
    labels = dict(zip(table["version"], table["version_label"], strict=True))
    rows = _choose(table, "version", "Commit", labels)
    # The box is too narrow for the whole of it.
    st.sidebar.markdown(_plain(rows["version_label"].iloc[0]))
    rows = _choose(rows, "task", "Task")
    rows = _choose(rows, "model", "Model")
    rows = _choose(rows, "device", "Device")
    if len(tables.choices(rows, "rest")) > 1:
        rows = _choose(rows, "rest", "dtype, step size, seed, tasks, training")
    depths = tables.choices(rows, "depth")
    depth = st.sidebar.selectbox("Depth K", depths, index=len(depths) - 1, key="depth")
    here = rows[rows["depth"] == depth]

    left, right = st.columns(2)
    left.altair_chart(figures.bias_against_time(here))
    right.altair_chart(figures.bias_against_memory(here))
    left, right = st.columns(2)
    left.altair_chart(figures.bias_against_order(here))
    right.markdown("#### What is plotted")
    for name in _EXPLAINED:
        right.markdown(f"**{QUANTITIES[name].label}**: {_plain(QUANTITIES[name].about)}")
    right.markdown(
        "Bars are 95 % intervals of the mean over tasks (bias) and quartiles (time); "
        "a number that is the same at every run has none."
    )
    left, right = st.columns(2)
    left.altair_chart(figures.time_against_depth(rows))
    right.altair_chart(figures.memory_against_depth(rows))

    st.subheader(f"Cells at depth {depth}")
    summary = tables.summary(here)
    numbers = {
        name: st.column_config.NumberColumn(format="%.3g")
        for name in summary.select_dtypes("number").columns
    }
    rows_shown = 35 * (len(summary) + 1) + 3  # pixels: all of them, where Streamlit would cut
    st.dataframe(summary, hide_index=True, column_config=numbers, height=rows_shown)


def _choose(
    table: pd.DataFrame, column: str, label: str, labels: dict[str, str] | None = None
) -> pd.DataFrame:
    names = labels or {}
    chosen = st.sidebar.selectbox(
        label,
        tables.choices(table, column),
        format_func=lambda value: names.get(value, value),
        key=column,
    )
    rows: pd.DataFrame = table[table[column] == chosen]
    return rows


@st.cache_data(max_entries=4, show_spinner="Reading results")
def _cells(store: str, stamp: Stamp) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads a store; the stamp is there for the cache, which forgets when a file changes."""
    del stamp
    long, problems = load(Path(store))
    return tables.cells(long), problems


def _stamp(store: Path) -> Stamp:
    found = []
    for path in journals(store):
        with suppress(OSError):  # what cannot be looked at cannot be read, and `load` tells of it
            stat = path.stat()
            found.append((path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _plain(text: str) -> str:
    """Escapes text from files, which Markdown would turn into links, images or colours."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))
