"""Everything about one cell."""

from pathlib import Path

import streamlit as st

from harness.outcome import Status
from reports import figures
from reports.markdown import plain
from reports.pages import parts
from reports.tables.details import Details, details, in_order
from reports.tables.repeat import command, profile_command
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: what the filters leave.
    """
    if view.version.empty:
        st.info("No cell is left by the filters.")
        return
    names = list(view.version["cell"])
    usual = names.index(view.here["cell"].iloc[0]) if len(view.here) else 0
    name = st.selectbox("Cell", names, usual, key="cell", bind="query-params")
    row = view.version[view.version["cell"] == name].iloc[0]
    try:
        found = details(view.snapshot, row["run"], name)
    except (OSError, ValueError) as error:
        st.warning(plain(f"{row['run']} cannot be read any more: {error}"))
        return
    _outcome(found)
    parts.grid(found.metrics)
    parts.figures(figures.samples_in_order(in_order(found.result)))
    st.subheader("Again")
    st.code(command(row), language="shell", wrap_lines=True)
    _profile(view.snapshot.store, name, profile_command(row))
    with st.expander("What it was measured with"):
        st.table(found.environment)


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
    if (store / "profiles").is_dir():
        # They import torch, which a page without a profile need not wait for.
        from harness.profiling.folder import profile_of
        from reports.figures import profiles

        profile = profile_of(store, name)
    if profile is None:
        st.markdown("There is none of this cell. This makes one:")
        st.code(how, language="shell", wrap_lines=True)
        return
    parts.figures(profiles.memory_timeline(profile), profiles.time_by_phase(profile))
    parts.figures(profiles.flames(profile))
    for title, table in (
        ("Operators, by time in themselves", profiles.top_operators(profile)),
        ("Tensors alive at the peak", profiles.top_tensors(profile)),
    ):
        st.markdown(f"**{title}**")
        parts.grid(table)
