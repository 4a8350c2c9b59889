"""Everything about one cell."""

from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from harness.matrix.outcome import Status
from harness.profiling import FOLDER
from harness.support.markdown import plain
from reports import figures
from reports.pages import widgets
from reports.tables.cells import FILTERS
from reports.tables.details import Details, details, in_order
from reports.tables.repeat import command, profile_command
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    if view.version.empty:
        st.info("No cell is left by the filters.")
        return
    name = st.selectbox("Cell", _names(view), key="cell", bind="query-params")
    row = view.version[view.version["cell"] == name].iloc[0]
    try:
        found = details(view.snapshot, row["run"], name)
    except (OSError, ValueError) as error:
        st.warning(plain(f"{row['run']} cannot be read any more: {error}"))
        return
    _outcome(found)
    widgets.grid(found.metrics)
    widgets.figures(partial(figures.samples_in_order, in_order(found.result)))
    st.subheader("Again")
    if again := command(row):
        st.code(again, language="shell", wrap_lines=True)
    else:
        st.markdown("Its name is not of this version, which knows no command for it.")
    _profile(view.snapshot.store, name, profile_command(row))
    with st.expander("What it was measured with"):
        widgets.grid(pd.DataFrame(found.environment.items(), columns=["what", "value"]))


def _names(view: View) -> list[str]:
    """Returns the cells that the filters leave, and the one that the address names.

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


def _outcome(found: Details) -> None:
    end = found.result.end
    tell = {Status.OK: st.success, Status.SKIPPED: st.info}.get(end.status, st.error)
    tell(f"{end.status}" + (f": {plain(end.reason)}" if end.reason else ""))
    for note in found.result.notes:
        st.warning(plain(note))
    if end.traceback:
        with st.expander("Traceback"):
            st.code(end.traceback, language="text", wrap_lines=True)


def _profile(store: Path, name: str, how: str) -> None:
    st.subheader("Profile")
    profile = None
    if (store / FOLDER).is_dir():
        # They import torch, which other pages need not wait for.
        from harness.profiling.folder import profile_of
        from reports.figures import profiles

        profile = profile_of(store, name)
    if profile is None:
        st.markdown("There is none of this cell. This makes one:")
        st.code(how, language="shell", wrap_lines=True)
        return
    widgets.figures(
        partial(profiles.memory_timeline, profile), partial(profiles.time_by_phase, profile)
    )
    widgets.figures(partial(profiles.flames, profile))
    for title, table in (
        ("Operators, by time in themselves", profiles.top_operators(profile)),
        ("Tensors alive at the peak", profiles.top_tensors(profile)),
    ):
        st.markdown(f"**{title}**")
        widgets.grid(table)
