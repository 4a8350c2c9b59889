"""What estimators cost: over depth and model, in products, by phase."""

import json
from math import nan

import altair as alt
import pandas as pd

from estimators.base.registry import create
from harness.matrix.metrics import METRICS
from reports.figures import marks, style
from reports.figures.lines import line_layers, over_depth
from reports.figures.scales import on_axis
from reports.figures.style import GREY, Chart, Rows

_PHASES = {
    "inner loop": "time_inner_loop",
    "outer gradient": "time_outer_gradient",
    "meta-gradient": "time_meta_gradient",
}

_ROW = 24  # pixels of an estimator where each has a row
_PRODUCTS = ("hvps", "serial_depth")


def time_against_depth(rows: Rows) -> Chart:
    """Plot the time of one estimate over depth K."""
    return over_depth(rows, "time", "Time against depth K")


def memory_against_depth(rows: Rows) -> Chart:
    """Plot the peak memory of one estimate over depth K."""
    return over_depth(rows, "peak_memory", "Peak memory against depth K")


def work_against_depth(rows: Rows) -> Chart:
    """Plot time in inner gradients over depth K, and dashed what the cost model counts.

    The model counts operations; time can be less where products are taken side by side.
    """
    rows = rows.assign(floor=in_gradients(rows))
    notes = ["dashed: cost model"] if rows["floor"].notna().any() else []
    text = "Time in inner gradients against depth K"
    return over_depth(rows, "time_ratio", text, notes=notes, extra="floor")


def in_gradients(rows: Rows) -> "pd.Series[float]":
    """Return what each cell costs at least, in inner gradients; NaN where nothing is known."""
    costs = []
    by_estimator = {}
    for text, depth, hvps in zip(rows["estimator"], rows["depth"], rows["hvps"], strict=True):
        try:
            if text not in by_estimator:
                by_estimator[text] = create(text)
            cost = by_estimator[text].cost(int(depth))
        except Exception:  # a plug-in that is not here, or another one by now
            cost = None
        measured = None if pd.isna(hvps) else float(hvps)
        costs.append(nan if cost is None else cost.in_gradients(measured))
    return pd.Series(costs, index=rows.index, dtype=float)


def cost_against_order(rows: Rows, cost: str) -> Chart:
    """Plot a cost over order L, a line for each estimator, from FOMAML (0) to exact MAML (K)."""
    label = METRICS[cost].label
    text = f"{label[0].upper()}{label[1:]} against order L"
    rows, y = on_axis(rows, "y", cost, log=False)
    if rows.empty:
        return style.nothing(text)
    families = [*rows["family"], *rows["line"]]
    axes = {"x": marks.order_axis(), "y": y}
    chart = marks.base(rows, cost).encode(**axes)
    joined = marks.base(rows.assign(family=rows["line"]), "line", cost).encode(**axes)
    layers = [
        marks.lines(joined, families, "line", "order"),
        *marks.bars(chart, families, "y"),
        marks.points(chart, families, cost),
    ]
    return style.figure(style.title_of(text, rows, *style.uncertainty(rows, cost)), layers)


def cost_against_model(rows: Rows, cost: str = "time") -> Chart:
    """Plot a cost over the size of the model, given by the memory of its parameters and data."""
    label = METRICS[cost].label
    text = f"{label[0].upper()}{label[1:]} against model size"
    rows = rows[style.few_orders(rows) & (rows["baseline_memory"] > 0)]
    rows, y = on_axis(rows, "y", cost)
    if rows.empty:
        return style.nothing(text)
    named = rows.groupby("baseline_memory")["model"].unique()
    scale = alt.Scale(type="log", nice=False, padding=48)
    x = alt.X(
        "baseline_memory:Q",
        title=f"model, at its {METRICS['baseline_memory'].title}",
        scale=scale,
        axis=alt.Axis(values=[*named.index], labelExpr=_model_labels(named), labelLimit=120),
    )
    heading = style.title_of(text, rows, style.numbered(rows), *style.uncertainty(rows, cost))
    return style.figure(heading, line_layers(rows, cost, x, y))


def work_and_serial_depth(rows: Rows) -> Chart:
    """Plot all Hessian-vector products, and those that must follow one another, side by side."""
    text = "Hessian-vector products: all, and serial"
    rows = rows[rows[[*_PRODUCTS]].notna().all(axis=1)]
    if rows.empty:
        return style.nothing(text)
    families = [*rows["family"]]
    labels = [METRICS[name].label for name in _PRODUCTS]
    parts = [
        rows.assign(kind=label, count=rows[name])
        for label, name in zip(labels, _PRODUCTS, strict=True)
    ]
    chart = marks.base(pd.concat(parts), "kind", "count").encode(
        y=marks.row_each([*rows.sort_values([*_PRODUCTS], kind="stable")["estimator"]]),
        yOffset=alt.YOffset("kind:N", sort=labels),
        x=alt.X("count:Q", title="Hessian-vector products of one estimate"),
        color=marks.colour(families),
    )
    shade = alt.Opacity("kind:O", scale=alt.Scale(domain=labels, range=[1, 0.45]))
    tips = marks.tooltip(chart.data)
    # A count of 0 has no bar; its number is there all the same.
    counts = chart.mark_text(align="left", dx=4, fontSize=9)
    layers = [
        chart.mark_bar().encode(opacity=shade, tooltip=tips),
        counts.encode(text=alt.Text("count:Q", format="d"), color=alt.value(GREY)),
    ]
    notes = ("strong: all, faint: serial", "deterministic, no error bars")
    heading = style.title_of(text, rows, *notes)
    return style.figure(heading, layers, _ROW * rows["estimator"].nunique(), legend=False)


def phases(rows: Rows) -> Chart:
    """Plot the time of each phase as parts of one bar for each estimator.

    A part begins where the medians of those before it end. The quartiles of its own time are drawn
    from there, without the spread of the others.
    """
    text = "Time by phase"
    metrics = [*_PHASES.values()]
    rows = rows[rows[metrics].notna().any(axis=1)]
    if rows.empty:
        return style.nothing(text)
    total = rows[metrics].sum(axis=1)
    parts, end = [], 0 * total
    for phase, metric in _PHASES.items():
        start, length = end, rows[metric].fillna(0)
        end = start + length
        ends = {"low": start + rows[f"{metric}_low"], "high": start + rows[f"{metric}_high"]}
        parts.append(rows.assign(phase=phase, length=length, start=start, end=end, **ends))
    every = pd.concat(parts)
    sort = [*rows.loc[total.sort_values(kind="stable").index, "estimator"]]
    columns = ("phase", "length", "start", "end", "low", "high", *metrics)
    chart = marks.base(every, *columns).encode(
        y=marks.row_each(sort),
        color=marks.phase_colour(),
    )
    x = alt.X("start:Q", title=METRICS["time"].title)
    tips = [
        alt.Tooltip("phase:N"),
        alt.Tooltip("length:Q", title=METRICS["time"].title, format=".3~g"),
        *marks.tooltip(chart.data),
    ]
    bars = chart.transform_filter("isValid(datum.low)")
    layers = [
        chart.mark_bar(height=12).encode(x=x, x2=alt.X2("end"), tooltip=tips),
        # Below its bar, since on it a rule of the same colour could not be seen.
        bars.mark_rule(strokeWidth=1.5, yOffset=9).encode(
            x=marks.like(x, "low"), x2=alt.X2("high")
        ),
    ]
    noted = "lines below the bars: quartiles of each phase's own time, from where its bar begins"
    return style.figure(
        style.title_of(text, rows, noted), layers, _ROW * rows["estimator"].nunique()
    )


def _model_labels(named: "pd.Series[str]") -> str:
    """Return an expression for the names of the models at a size, a line each."""
    expression = "''"
    for size, models in named.items():
        lines = json.dumps([*models, f"{size:.3g}"])
        expression = f"abs(datum.value / {size!r} - 1) < 1e-6 ? {lines} : {expression}"
    return expression
