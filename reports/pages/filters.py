"""The bar of filters that all pages of the dashboard share; choices are stored in the URL."""

from typing import Any

import pandas as pd
import streamlit as st

from harness.cell import AXES
from harness.support.markdown import plain
from reports.tables.cells import REST_LABEL, choices
from reports.tables.snapshot import Snapshot
from reports.tables.view import View


def filtered(snapshot: Snapshot) -> View:
    """Draw the filters in the side bar; return the cells that match them."""
    version = _select(snapshot.cells, "machine_label", "machine", "machine")
    version = _select(version, "commit_label", "commit", "commit")
    when = version["started"].max()[:16].replace("T", " ")
    label = version["commit_label"].iloc[0]  # which the box may be too narrow for
    st.sidebar.markdown(f":small[{plain(f'{label}, measured {when} UTC')}]")
    task = _select(version, "task")
    setting = _select(_select(task, "model"), "device")
    task = task[task["device"] == setting["device"].iloc[0]]
    if setting["rest"].nunique() > 1:
        setting = _select(setting, "rest", REST_LABEL)
    if setting["trained"].nunique() > 1:
        setting = _select(setting, "trained")
    here = _select(setting, "depth", last=True)
    chosen = st.sidebar.multiselect(
        "Estimators",
        sorted(set(version["family"])),
        key="estimators",
        placeholder="all",
        bind="query-params",
    )

    def matching(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["family"].isin(chosen)] if chosen else rows

    return View(
        snapshot, matching(version), matching(task), matching(setting), matching(here), chosen
    )


def _select(
    rows: pd.DataFrame, column: str, label: str = "", key: str = "", *, last: bool = False
) -> pd.DataFrame:
    """Draw a filter of a column; return the rows that match it."""
    label = label or AXES[column].label
    options: list[Any] = choices(rows, column)
    if rows[column].dtype.kind == "i":
        options.sort()
    chosen = st.sidebar.selectbox(
        label[0].upper() + label[1:],
        options,
        len(options) - 1 if last else 0,
        key=key or column,
        bind="query-params",
    )
    matching: pd.DataFrame = rows[rows[column] == chosen]
    return matching
