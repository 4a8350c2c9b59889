"""Any metric against any other."""

from functools import partial

import streamlit as st

from harness.matrix.metrics import METRICS
from reports import figures
from reports.pages import widgets
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    names = [name for name in METRICS if view.version[name].notna().any()]
    if not names:
        st.info("No cell is left by the filters, or none has a number.")
        return
    columns = st.columns(3)
    x = _metric(columns[0], "Across", "x", names, "time_ratio")
    y = _metric(columns[1], "Up", "y", names, "bias")
    by = columns[2].segmented_control(
        "Small multiples", ["depth", "model"], key="by", bind="query-params"
    )
    x_log = columns[0].toggle("Logarithmic across", True, key="x-log", bind="query-params")
    y_log = columns[1].toggle("Logarithmic up", True, key="y-log", bind="query-params")
    rows = {"depth": view.setting, "model": view.models}.get(str(by), view.here)
    widgets.figures(partial(figures.tradeoff, rows, x, y, x_log=x_log, y_log=y_log, by=by))
    st.markdown(
        "The line of steps is the Pareto front: nothing is better in both. What it leaves behind "
        "is faded. A thin line joins the orders of one estimator."
    )
    widgets.explained(*dict.fromkeys((x, y)))


def _metric(
    column: st.delta_generator.DeltaGenerator, label: str, key: str, names: list[str], usual: str
) -> str:
    index = names.index(usual) if usual in names else 0
    return column.selectbox(
        label,
        names,
        index,
        format_func=lambda name: METRICS[name].title,
        key=key,
        bind="query-params",
    )
