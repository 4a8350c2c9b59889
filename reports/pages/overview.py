"""Which estimator to use, what stands out, and what the store holds."""

from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from harness.matrix.metrics import METRICS
from harness.support.markdown import plain
from harness.support.units import bytes_of
from reports import figures
from reports.pages import widgets
from reports.tables.advice import advise, verdict
from reports.tables.overview import failures, outcomes, versions
from reports.tables.samples import samples
from reports.tables.text import disturbed, ranking
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    _advice(view)
    if view.snapshot.findings:
        newest = view.snapshot.cells["commit_label"].iloc[0]
        st.header(f"Findings at {plain(newest)}, the newest commit")
        st.markdown("\n".join(f"- {plain(one)}" for one in view.snapshot.findings))
    _store(view)


def _advice(view: View) -> None:
    st.header("What should I use?")
    if view.here.empty:
        st.info("No cell is left by the filters.")
        return
    row = view.here.iloc[0]
    st.markdown(
        plain(
            f"For {row['task']} with {row['model']} at depth K={row['depth']} on {row['device']}, "
            f"{row['rest']}. The filters at the side change this."
        )
    )
    first, second, third = st.columns(3)
    budgets = {
        "memory": _memory(first),
        "bias": _budget(second, "bias", "Bias, at most (relative error)"),
        "time": _budget(third, "time", "Time, at most (inner gradients)"),
    }
    errors = samples(view.snapshot.long, view.here, "bias")
    advice = advise(view.here, errors=errors, **budgets)
    tell = st.success if advice["fits"].any() else st.warning
    tell(plain(verdict(advice)))
    widgets.sentences(ranking(advice))
    if noted := disturbed(view.here):
        st.markdown(f":small[{plain(noted)}]")
    widgets.figures(
        partial(figures.bias_against_memory, view.here),
        partial(figures.bias_against_time, view.here),
    )
    widgets.explained("bias", "peak_memory", "time_ratio")


def _memory(column: DeltaGenerator) -> float | None:
    """Asks for a budget of memory; returns it in the unit that is shown."""
    text = column.text_input(
        "Peak memory, at most", key="memory", bind="query-params", placeholder="any, or 80 KiB"
    )
    if not text:
        return None
    try:
        return bytes_of(text) / METRICS["peak_memory"].scale
    except ValueError as error:
        column.warning(plain(str(error)))
        return None


def _budget(column: DeltaGenerator, key: str, label: str) -> float | None:
    return column.number_input(
        label,
        min_value=0.0,
        value=None,
        key=key,
        bind="query-params",
        placeholder="any",
        format="%g",
    )


def _store(view: View) -> None:
    st.header("In the store")
    held = view.snapshot.contents
    st.markdown(" · ".join(f"{name} **{plain(value)}**" for name, value in held.items()))
    with st.expander("Commits and machines"):
        widgets.grid(versions(view.snapshot.cells))
    st.subheader("How the cells of the chosen commit ended")
    ends = zip(*(outcomes(view.version)[name] for name in ("outcome", "cells")), strict=True)
    st.markdown(", ".join(f"{count:,} {outcome}" for outcome, count in ends))
    failed = failures(view.version)
    if not failed.empty:
        widgets.sentences(failed.drop(columns="version_label"))
