"""Any metric against any other."""

from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from harness.matrix.metrics import METRICS
from reports.figures.tradeoffs import tradeoff
from reports.pages import widgets
from reports.tables.view import View


def show(view: View) -> None:
    """Show the page."""
    names = [name for name in METRICS if view.version[name].notna().any()]
    if not names:
        st.info("No cell matches the filters, or none has a number.")
        return
    columns = st.columns(3)
    x = _metric(columns[0], "x axis", "x", names, "time_ratio")
    y = _metric(columns[1], "y axis", "y", names, "bias")
    by = columns[2].segmented_control(
        "Small multiples", ["depth", "model"], key="by", bind="query-params"
    )
    x_log = columns[0].toggle("Logarithmic x axis", True, key="x-log", bind="query-params")
    y_log = columns[1].toggle("Logarithmic y axis", True, key="y-log", bind="query-params")
    rows = {"depth": view.setting, "model": view.models}.get(str(by), view.here)
    widgets.figures(partial(tradeoff, rows, x, y, x_log=x_log, y_log=y_log, by=by))
    st.markdown(
        "The dashed steps are the Pareto front: no estimator is better in both metrics. Estimators "
        "off the front are faded. A thin line joins the orders of one estimator."
    )
    widgets.explained(*dict.fromkeys((x, y)))


def _metric(column: DeltaGenerator, label: str, key: str, names: list[str], default: str) -> str:
    return column.selectbox(
        label,
        names,
        names.index(default) if default in names else 0,
        format_func=lambda name: METRICS[name].title,
        key=key,
        bind="query-params",
    )
