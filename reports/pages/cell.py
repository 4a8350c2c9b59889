"""Everything about one cell."""

from functools import partial

import pandas as pd
import streamlit as st

from harness.matrix.outcome import Status
from harness.profiling import FOLDER
from harness.store.runs import CellResult
from harness.support.markdown import plain
from reports.figures.samples import samples_in_order
from reports.pages import widgets
from reports.sections import profile_blocks
from reports.tables.cells import FILTERS
from reports.tables.details import details, in_order
from reports.tables.repeat import command, profile_command
from reports.tables.view import View


def show(view: View) -> None:
    """Show the page."""
    if view.version.empty:
        st.info("No cell matches the filters.")
        return
    name = st.selectbox("Cell", _names(view), key="cell", bind="query-params")
    row = view.version[view.version["cell"] == name].iloc[0]
    cell = details(view.snapshot, row["run"], name)
    _outcome(cell.result)
    widgets.table(cell.metrics)
    widgets.figures(partial(samples_in_order, in_order(cell.result)))
    st.header("Measure it again")
    st.code(command(row), language="shell", wrap_lines=True)
    _profile(view, row)
    with st.expander("Machine, code and packages"):
        widgets.table(pd.DataFrame(cell.environment.items(), columns=["name", "value"]))


def _names(view: View) -> list[str]:
    """Return the cells that match the filters, and the one in the address.

    That one goes when a filter is changed: it would stay for ever.
    """
    names = list(view.here["cell"])
    setting = tuple(view.here.iloc[0][["version", *FILTERS, "depth"]]) if names else ()
    before = st.session_state.get("setting", setting)
    st.session_state["setting"] = setting
    named = st.query_params.get("cell")
    if named not in names and before == setting and (view.version["cell"] == named).any():
        names.append(str(named))
    return names or list(view.version["cell"])


def _outcome(result: CellResult) -> None:
    end = result.end
    show = {Status.OK: st.success, Status.SKIPPED: st.info}.get(end.status, st.error)
    show(f"{end.status}" + (f": {plain(end.reason)}" if end.reason else ""))
    for note in result.notes:
        st.warning(plain(note))
    if end.traceback:
        with st.expander("Traceback"):
            st.code(end.traceback, language="text", wrap_lines=True)


def _profile(view: View, row: "pd.Series[str]") -> None:
    st.header("Profile")
    profile = None
    if (view.snapshot.store / FOLDER).is_dir():
        # It imports torch, which other pages need not wait for.
        from harness.profiling.folder import profile_of

        profile = profile_of(view.snapshot.store, row["cell"])
    if profile is None:
        st.markdown("There is none of this cell. This makes one:")
        st.code(profile_command(row), language="shell", wrap_lines=True)
        return
    widgets.blocks(profile_blocks(profile), key="profile")
