"""Which estimator to use, what stands out, and what the store holds."""

import streamlit as st

from reports import figures
from reports.markdown import plain
from reports.pages import parts
from reports.tables.advice import advise, verdict
from reports.tables.overview import failures, outcomes, versions
from reports.tables.samples import samples
from reports.tables.text import ranking
from reports.tables.view import View

_BUDGETS = (
    ("memory", "Peak memory", "MiB"),
    ("bias", "Bias", "relative error"),
    ("time", "Time", "inner gradients"),
)


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: what the filters leave.
    """
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
    budgets = {
        name: column.number_input(
            f"{label}, at most ({unit})",
            min_value=0.0,
            value=None,
            key=name,
            bind="query-params",
            placeholder="any",
            format="%g",
        )
        for column, (name, label, unit) in zip(st.columns(len(_BUDGETS)), _BUDGETS, strict=True)
    }
    errors = samples(view.snapshot.long, view.here, "bias")
    advice = advise(view.here, errors=errors, **budgets)
    st.success(plain(verdict(advice)))
    parts.grid(ranking(advice))
    parts.figures(figures.bias_against_memory(view.here), figures.bias_against_time(view.here))
    parts.explained("bias", "peak_memory", "time_ratio")


def _store(view: View) -> None:
    st.header("In the store")
    held = view.snapshot.contents
    for column, (name, value) in zip(st.columns(len(held)), held.items(), strict=True):
        column.metric(name, plain(value))
    with st.expander("Commits and machines"):
        parts.grid(versions(view.snapshot.cells))
    st.subheader("How the cells of the chosen commit ended")
    ends = zip(*(outcomes(view.version)[name] for name in ("outcome", "cells")), strict=True)
    st.markdown(", ".join(f"{count:,} {outcome}" for outcome, count in ends))
    failed = failures(view.version)
    if not failed.empty:
        parts.grid(failed)
