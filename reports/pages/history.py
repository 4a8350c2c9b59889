"""A metric over commits, its changes, and two commits side by side."""

from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from harness.history.changes import changes
from harness.matrix.metrics import METRICS
from reports.figures.history import over_commits
from reports.pages import widgets
from reports.tables.over_commits import comparison_table, setting_of
from reports.tables.view import View


def show(view: View) -> None:
    """Show the page."""
    with st.spinner("Reading the history"):
        history = view.snapshot.history
    widgets.problems(history.problems)
    if view.here.empty:
        st.info("No cell matches the filters.")
        return
    setting = setting_of(view.here)
    rows = history.of_setting(setting, view.families)
    measured = set(rows["metric"])
    if names := [name for name in METRICS if name in measured]:
        metric = st.selectbox(
            "Metric",
            names,
            format_func=lambda name: METRICS[name].title,
            key="metric",
            bind="query-params",
        )
        view = replace(view, metric=metric)
    widgets.sections("History", view)
    if names:
        _side_by_side(view, rows)
    _other_benchmarks(history.beside_cells(setting))


def _side_by_side(view: View, rows: pd.DataFrame) -> None:
    st.header("Two commits side by side")
    by_place = rows.sort_values("position").drop_duplicates("commit")
    subjects = dict(zip(by_place["commit"], by_place["subject"], strict=True))
    commits = list(reversed(subjects))
    if len(commits) < 2:
        st.markdown("There is only one commit.")
        return
    base, head = st.columns(2)

    def label(commit: str) -> str:
        return f"{commit[:8]} {subjects[commit]}".strip()

    pair = (
        base.selectbox("Base", commits, 1, format_func=label, key="base", bind="query-params"),
        head.selectbox("Head", commits, 0, format_func=label, key="head", bind="query-params"),
    )
    with st.spinner("Comparing"):
        compared = view.snapshot.history.compare(setting_of(view.here), *pair)
    differing = int(compared["differs"].sum())
    st.markdown(f"{differing:,} of {len(compared):,} numbers and outcomes differ.")
    widgets.grid(comparison_table(compared))


def _other_benchmarks(rows: pd.DataFrame) -> None:
    """Show kernels and other benchmarks of asv, which have no setting of a cell."""
    if rows.empty:
        return
    st.header("Kernels and other benchmarks")
    names = sorted(rows["metric"].unique())
    name = st.selectbox("Benchmark", names, key="benchmark", bind="query-params")
    chosen = rows[rows["metric"] == name]
    widgets.figures(partial(over_commits, chosen, changes(chosen)))
