"""What estimates cost: time, memory, work and what must be done one after the other."""

from functools import partial

import streamlit as st

from reports import figures
from reports.pages import widgets
from reports.tables.break_even import CROSSINGS, crossings, over_exact, told
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    widgets.figures(
        partial(figures.work_against_depth, view.setting),
        partial(figures.memory_against_depth, view.setting),
        partial(figures.time_against_depth, view.setting),
        partial(figures.cost_against_model, view.models),
        partial(figures.work_and_serial_depth, view.here),
        partial(figures.phases, view.here),
        partial(figures.time_against_serial_depth, view.here),
    )
    snapshot = view.snapshot
    compared = over_exact(snapshot.long, view.curves, snapshot.cells)
    found = crossings(compared)
    st.subheader("As quick as exact MAML")
    widgets.figures(partial(figures.time_over_exact, compared, found))
    if not found.empty:
        st.markdown(CROSSINGS)
        widgets.grid(told(found))
    widgets.explained(
        "time_ratio", "time", "peak_memory", "hvps", "serial_depth", "time_inner_loop"
    )
