"""A metric over commits, what changed where, and two commits side by side."""

from collections.abc import Hashable
from pathlib import Path

import pandas as pd
import streamlit as st

from harness.history.changes import changes
from harness.history.compare import compare
from harness.history.stored import files_beside_runs
from reports import figures
from reports.pages import parts
from reports.quantities import QUANTITIES
from reports.tables.over_commits import (
    History,
    beside_cells,
    changes_told,
    compared,
    of_machine,
    of_setting,
    read_history,
    setting_of,
)
from reports.tables.snapshot import Snapshot, Stamp, stamp, stamp_of
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: what the filters leave.
    """
    snapshot = view.snapshot
    kept = stamp_of(files_beside_runs(snapshot.store))
    found = _history(str(snapshot.store), stamp(snapshot.store), kept, snapshot)
    parts.problems(found.problems)
    if view.here.empty:
        st.info("No cell is left by the filters.")
        return
    rows = of_setting(found.series, view.here, view.families)
    names = [name for name in QUANTITIES if (rows["metric"] == name).any()]
    if not names:
        st.info(
            "Nothing here was measured at a commit without uncommitted changes; "
            "`make bench` measures the current one."
        )
        return
    _over_commits(rows, names)
    st.subheader("Changes, newest first")
    setting = (*setting_of(view.here), *view.families)
    steps = _changes(str(snapshot.store), stamp(snapshot.store), kept, setting, rows)
    if steps.empty:
        st.markdown("No metric changed its level in this setting.")
    else:
        parts.grid(changes_told(steps))
    _side_by_side(found.series, rows)
    _beside_cells(beside_cells(found.series, view.here))


def _over_commits(rows: pd.DataFrame, names: list[str]) -> None:
    metric = st.selectbox(
        "Metric",
        names,
        format_func=lambda name: QUANTITIES[name].title,
        key="metric",
        bind="query-params",
    )
    chosen = rows[(rows["metric"] == metric) | (rows["metric"] == "")]
    parts.figures(figures.history(chosen, changes(rows[rows["metric"] == metric])))


def _side_by_side(series: pd.DataFrame, rows: pd.DataFrame) -> None:
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

    chosen = compare(
        of_machine(series, rows),
        base.selectbox("Base", commits, 1, format_func=label, key="base", bind="query-params"),
        head.selectbox("Head", commits, 0, format_func=label, key="head", bind="query-params"),
    )
    differing = int(chosen["differs"].sum())
    st.markdown(f"{differing:,} of {len(chosen):,} numbers and outcomes differ.")
    parts.grid(compared(chosen))


def _beside_cells(rows: pd.DataFrame) -> None:
    """Shows kernels, and benchmarks of asv's own, which have no setting of a cell."""
    if rows.empty:
        return
    st.subheader("Kernels and other benchmarks")
    names = sorted(rows["metric"].unique())
    name = st.selectbox("Benchmark", names, key="benchmark", bind="query-params")
    chosen = rows[rows["metric"] == name]
    parts.figures(figures.history(chosen, changes(chosen)))


@st.cache_resource(max_entries=2, show_spinner="Reading the history")
def _history(store: str, runs: Stamp, asv: Stamp, _snapshot: Snapshot) -> History:
    """Reads the history; the stamps are there for the cache."""
    del store, runs, asv
    return read_history(_snapshot, Path.cwd())


@st.cache_resource(max_entries=100, show_spinner="Looking for changes")
def _changes(
    store: str, runs: Stamp, asv: Stamp, setting: tuple[Hashable, ...], _rows: pd.DataFrame
) -> pd.DataFrame:
    """Finds the changes of all metrics of a setting, of which there are many to look through."""
    del store, runs, asv, setting
    return changes(_rows)
