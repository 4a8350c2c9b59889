"""The bar of filters that all pages of the dashboard share; choices are kept in the URL."""

from typing import Any

import pandas as pd
import streamlit as st

from harness.support.markdown import plain
from reports.tables.cells import choices
from reports.tables.snapshot import Snapshot
from reports.tables.view import View


def choose(snapshot: Snapshot) -> View:
    """Draws the filters in the side bar.

    Returns:
        What they leave.
    """
    version = _choose(snapshot.cells, "machine_label", "Machine", "machine")
    version = _choose(version, "commit_label", "Commit", "commit")
    when = version["started"].max()[:16].replace("T", " ")
    label = version["commit_label"].iloc[0]  # which the box may be too narrow for
    st.sidebar.markdown(f":small[{plain(f'{label}, measured {when} UTC')}]")
    task = _choose(version, "task", "Task", "task")
    setting = _choose(task, "model", "Model", "model")
    device = _choose(setting, "device", "Device", "device")
    task = task[task["device"] == device["device"].iloc[0]]
    setting = device
    if setting["rest"].nunique() > 1:
        setting = _choose(setting, "rest", "dtype, step size, seed, tasks", "rest")
    if setting["trained"].nunique() > 1:
        setting = _choose(setting, "trained", "Meta-training steps before", "trained")
    here = _choose(setting, "depth", "Depth K", "depth", last=True)
    families = sorted(set(version["family"]))
    chosen = st.sidebar.multiselect(
        "Estimators", families, key="estimators", placeholder="all", bind="query-params"
    )

    def left(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["family"].isin(chosen)] if chosen else rows

    return View(snapshot, left(version), left(task), left(setting), left(here), chosen)


def _choose(
    rows: pd.DataFrame, column: str, label: str, key: str, *, last: bool = False
) -> pd.DataFrame:
    options: list[Any] = choices(rows, column)
    if rows[column].dtype.kind == "i":
        options.sort()
    chosen = st.sidebar.selectbox(
        label, options, len(options) - 1 if last else 0, key=key, bind="query-params"
    )
    left: pd.DataFrame = rows[rows[column] == chosen]
    return left
