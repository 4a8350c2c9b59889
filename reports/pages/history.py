"""A metric over commits, what changed where, and two commits side by side."""

from collections.abc import Hashable
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from harness.history.changes import changes
from harness.history.compare import compare
from harness.history.kernel_times import kernel_files
from harness.matrix.metrics import METRICS
from harness.store.table import journals
from reports import figures
from reports.pages import widgets
from reports.tables.over_commits import (
    History,
    changes_told,
    compared,
    machine_of,
    read_history,
    setting_of,
)
from reports.tables.snapshot import Snapshot, Stamp, stamp_of
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    snapshot = view.snapshot
    kept = stamp_of([*journals(snapshot.store), *kernel_files(snapshot.store)])
    found = _history(kept, snapshot)
    widgets.problems(found.problems)
    if view.here.empty:
        st.info("No cell is left by the filters.")
        return
    _setting(found, view, kept)
    _beside_cells(found.beside_cells(view.here))


def _setting(found: History, view: View, kept: Stamp) -> None:
    """Shows the history of what the filters leave."""
    rows = found.of_setting(view.here, view.families)
    there = set(rows["metric"])
    names = [name for name in METRICS if name in there]
    if not names:
        st.info(
            "Nothing here was measured at a commit without uncommitted changes; "
            "`make bench` measures the current one."
        )
        return
    _over_commits(rows, names)
    st.subheader("Changes, newest first")
    steps = _changes(kept, (*setting_of(view.here), *view.families), rows)
    if steps.empty:
        st.markdown("No metric changed its level in this setting.")
    else:
        widgets.grid(changes_told(steps))
    _side_by_side(found, rows, kept)


def _over_commits(rows: pd.DataFrame, names: list[str]) -> None:
    metric = st.selectbox(
        "Metric",
        names,
        format_func=lambda name: METRICS[name].title,
        key="metric",
        bind="query-params",
    )
    chosen = rows[(rows["metric"] == metric) | (rows["metric"] == "")]
    widgets.figures(partial(figures.history, chosen, changes(rows[rows["metric"] == metric])))


def _side_by_side(found: History, rows: pd.DataFrame, kept: Stamp) -> None:
    st.subheader("Two commits side by side")
    by_place = rows.sort_values("position").drop_duplicates("commit")
    subjects = dict(zip(by_place["commit"], by_place["subject"], strict=True))
    commits = list(reversed(subjects))
    if len(commits) < 2:
        st.markdown("There is one commit only.")
        return
    base, head = st.columns(2)

    def label(commit: str) -> str:
        return f"{commit[:8]} {subjects[commit]}".strip()

    pair = (
        base.selectbox("Base", commits, 1, format_func=label, key="base", bind="query-params"),
        head.selectbox("Head", commits, 0, format_func=label, key="head", bind="query-params"),
    )
    chosen = _compared(kept, machine_of(rows), *pair, found.of_commits(rows, *set(pair)))
    differing = int(chosen["differs"].sum())
    st.markdown(f"{differing:,} of {len(chosen):,} numbers and outcomes differ.")
    widgets.grid(compared(chosen))


def _beside_cells(rows: pd.DataFrame) -> None:
    """Shows kernels, and benchmarks of asv's own, which have no setting of a cell."""
    if rows.empty:
        return
    st.subheader("Kernels and other benchmarks")
    names = sorted(rows["metric"].unique())
    name = st.selectbox("Benchmark", names, key="benchmark", bind="query-params")
    chosen = rows[rows["metric"] == name]
    widgets.figures(partial(figures.history, chosen, changes(chosen)))


@st.cache_resource(max_entries=2, show_spinner="Reading the history")
def _history(kept: Stamp, _snapshot: Snapshot) -> History:
    """Reads the history; the stamp is there for the cache, which forgets when a file changes."""
    del kept
    return read_history(_snapshot, Path.cwd())


@st.cache_resource(max_entries=100, show_spinner="Looking for changes")
def _changes(kept: Stamp, setting: tuple[Hashable, ...], _rows: pd.DataFrame) -> pd.DataFrame:
    """Finds the changes of all metrics of a setting, of which there are many to look through."""
    del kept, setting
    return changes(_rows)


@st.cache_resource(max_entries=10, show_spinner="Comparing")
def _compared(
    kept: Stamp, machine: tuple[str, str], base: str, head: str, _rows: pd.DataFrame
) -> pd.DataFrame:
    """Compares two commits on one machine, whatever setting the page shows."""
    del kept, machine
    return compare(_rows, base, head)
