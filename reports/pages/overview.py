"""Which estimator to use, what stands out, and what the store holds."""

from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from harness.matrix.metrics import METRICS
from harness.support.markdown import plain
from harness.support.units import bytes_of
from reports.pages import widgets
from reports.tables.view import View


def show(view: View) -> None:
    """Show the page."""
    st.header("Which estimator should I use?")
    if not view.here.empty:
        row = view.here.iloc[0]
        st.markdown(
            plain(
                f"For {row['task']} with {row['model']} at depth K={row['depth']} on "
                f"{row['device']}, {row['rest']}. The filters at the side change this."
            )
        )
        first, second, third = st.columns(3)
        budgets = {
            "memory": _memory(first),
            "bias": _budget(second, "bias", "Bias, at most (relative error)"),
            "time": _budget(third, "time", "Time, at most (inner gradients)"),
        }
        view = replace(view, budgets=budgets)
    widgets.sections("Overview", view)


def _memory(column: DeltaGenerator) -> float | None:
    """Draw the field for a budget of memory; return it in the shown unit."""
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
