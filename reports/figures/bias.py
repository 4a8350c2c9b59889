"""How wrong estimators are: over order, depth and training, by task, and by angle."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from harness.matrix.metrics import METRICS
from reports.figures import marks, style
from reports.figures.lines import line_layers, over_depth
from reports.figures.scales import on_axis
from reports.figures.style import GREY, HEIGHT, Chart, Rows
from reports.tables.cells import by_order, family_and_order, is_random

# Bounds so many times above the largest bias are beyond the axis, or they would flatten the rest.
_BEYOND = 30.0
_ROW = 20  # pixels of an estimator where each has a row
_CURVATURE = 90  # pixels of the panel below bias
_GAP = 24


def bias_against_order(rows: Rows) -> Chart:
    """Plot bias over order L, from first-order MAML (0) to the exact gradient (K).

    Where a bound was computed, theory allows the bias up to a dashed line, in the same unit: the
    mean over tasks, within a light band that is its interval (left out where it reaches 0).
    """
    text = "Bias against order L"
    rows = by_order(rows)
    # A bound of 0, at order K, has no place on a log axis.
    measured = rows[np.isfinite(rows["bias"].astype(float))]
    bounded = measured[(measured["bound"] > 0) & np.isfinite(measured["bound"])]
    limit = _BEYOND * max(float(measured["bias"].max()), 1.0) if len(bounded) else 0.0
    high = bounded["bound_high"].where(np.isfinite(bounded["bound_high"]), bounded["bound"])
    highest = high.max() if len(bounded) else 0.0
    rows, y = on_axis(rows, "y", "bias", most=min(highest, limit))
    if rows.empty:
        return style.nothing(text)
    x = marks.order_axis()
    families = [*_of_line(rows)["family"], *rows["family"]]
    chart = marks.base(rows, "bound").encode(x=x, y=y)
    joined = marks.base(_of_line(rows), "line").encode(x=x, y=y)
    layers = [
        *(_bound(bounded, x, y, families) if len(bounded) else []),
        marks.lines(joined, families, "line", "order"),
        *marks.bars(chart, families, "y"),
        marks.points(chart, families, "bias", "bound"),
    ]
    notes = style.uncertainty(rows, "bias")
    if len(bounded):
        notes.append("dashed: bound of theory" + (" (clipped)" if highest > limit else ""))
    return style.figure(style.title_of(text, rows, *notes), layers)


def bias_against_depth(rows: Rows) -> Chart:
    """Plot bias over depth K, but for random estimators, of which it is what noise leaves of 0."""
    return over_depth(rows[~is_random(rows)], "bias", "Bias against depth K")


def bias_along_training(rows: Rows) -> Chart:
    """Plot bias over steps of meta-training, and below it how far curvature is from 1."""
    text = "Bias along meta-training"
    rows, y = on_axis(rows[style.few_orders(rows)], "y", "bias")
    if rows.empty:
        return style.nothing(text)
    steps = sorted({int(one) for one in rows["trained"]})
    if len(steps) == 1:
        return style.nothing(text, "These cells do not differ in meta-training.")
    scale = alt.Scale(domain=[steps[0], steps[-1]], nice=False, padding=44)
    axis = alt.Axis(values=steps, format="d", labelOverlap="greedy")
    x = alt.X("trained:Q", title="meta-training (steps)", scale=scale, axis=axis)
    y["scale"]["range"] = [HEIGHT, 0]
    top: alt.LayerChart = alt.LayerChart(layer=line_layers(rows, "bias", x, y))
    notes = [style.numbered(rows)]
    # What curvature the inner loops meet is the same for all estimators.
    curved = rows[rows["curvature"].notna()].drop_duplicates("trained")
    if curved.empty:
        heading = style.title_of(text, rows, *notes, *style.uncertainty(rows, "bias"))
        return style.figure(heading, [top])
    height = HEIGHT + _GAP + _CURVATURE
    below = _curvature(curved, x, [height, height - _CURVATURE])
    notes += style.uncertainty(rows, "bias", "curvature")
    # Two panels of one plot, since Vega-Lite fits a plot to the page, but no stack of plots.
    both: alt.LayerChart = alt.LayerChart(layer=[top, below]).resolve_scale(y="independent")
    return style.figure(style.title_of(text, rows, *notes), [both], height)


def bias_by_task(samples: pd.DataFrame) -> Chart:
    """Plot the bias on each task, a row for each estimator, with median and quartiles."""
    text = "Bias by task"
    renamed = samples.rename(columns={"value": "bias"})
    rows, x = on_axis(renamed, "x", "bias")
    if rows.empty:
        return style.nothing(text)
    summed = spread(rows.rename(columns={"bias": "value"}))
    for name in ("low", "median", "high"):  # where exact ones stand, as their points do
        summed[f"{name}_drawn"] = summed[name].clip(lower=x["scale"]["domain"][0])
    y = marks.row_each([*summed["estimator"]])
    families = [*rows["family"]]
    dots = alt.Chart(rows[["estimator", "family", "sample", "bias", "bias_drawn"]])
    hover = [
        "estimator:N",
        alt.Tooltip("sample:Q", title="task number"),
        alt.Tooltip("bias:Q", title=METRICS["bias"].title, format=".3~g"),
    ]
    box = alt.Chart(summed).encode(y=y, color=marks.colour(families))
    low, middle = marks.like(x, "low_drawn"), marks.like(x, "median_drawn")
    sums = [
        alt.Tooltip(f"{name}:Q", title=title, format=".3~g")
        for name, title in (
            *(("count", "tasks"), ("median", "median"), ("low", "lower quartile")),
            *(("high", "upper quartile"), ("least", "least"), ("most", "most")),
        )
    ]
    tips = ["estimator:N", *sums]
    layers = [
        box.mark_bar(height=10, opacity=0.25).encode(x=low, x2=alt.X2("high_drawn"), tooltip=tips),
        dots.mark_point(filled=True, size=22, opacity=0.6).encode(
            x=x, y=y, color=marks.colour(families), tooltip=hover
        ),
        box.mark_tick(thickness=3, size=16).encode(x=middle, tooltip=tips),
    ]
    heading = style.title_of(text, rows, "a point is a task; thick: median; box: quartiles")
    return style.figure(heading, layers, _ROW * len(summed), legend=False)


def cosine(rows: Rows) -> Chart:
    """Plot 1 - cosine of the angle to the exact meta-gradient, a row for each estimator.

    It is what to look at where lengths mean nothing, as with `reptile`.
    """
    return by_estimator(rows, "cosine_distance", "Angle to the exact meta-gradient")


def by_estimator(rows: Rows, name: str, text: str) -> Chart:
    """Plot a metric, a row for each estimator."""
    rows, x = on_axis(rows, "x", name)
    if rows.empty:
        return style.nothing(text)
    rows = rows.sort_values(name, kind="stable")
    x["axis"]["titleAnchor"] = "end"  # names may leave less room than it takes
    y = marks.row_each([*rows["estimator"]])
    families = [*rows["family"]]
    chart = marks.base(rows, name).encode(x=x, y=y)
    layers = [*marks.bars(chart, families, "x"), marks.points(chart, families, name)]
    heading = style.title_of(text, rows, *style.uncertainty(rows, name))
    return style.figure(heading, layers, _ROW * len(rows), legend=False)


def _of_line(rows: Rows) -> Rows:
    """Return rows in the colour of their line: its ends are points of other estimators."""
    return rows.assign(family=[family_and_order(line)[0] for line in rows["line"]])


def _bound(rows: Rows, x: alt.X, y: Any, families: list[str]) -> list[alt.Chart]:
    """Draw how much bias theory allows, as far as the axis goes."""
    lowest = y["scale"]["domain"][0]
    drawable = (rows["bound_low"] > 0) & np.isfinite(rows["bound_high"])
    low = rows["bound_low"].where(drawable).clip(lower=lowest)
    rows = _of_line(rows).assign(bound_low=low).sort_values("order")
    chart = marks.base(rows, "line", "bound", "bound_low", "bound_high").encode(
        x=x, color=marks.colour(families), detail=alt.Detail("line:N")
    )
    dashed = chart.mark_line(strokeDash=[4, 3], strokeWidth=1.2, opacity=0.8, clip=True)
    lines = [dashed.encode(y=marks.like(y, "bound"), order=alt.Order("order:Q"))]
    if low.isna().all():
        return lines
    band = chart.transform_filter("isValid(datum.bound_low)").mark_area(opacity=0.12, clip=True)
    return [band.encode(y=marks.like(y, "bound_low"), y2=alt.Y2("bound_high")), *lines]


def _curvature(rows: Rows, x: alt.X, place: list[int]) -> alt.LayerChart:
    """Draw alpha lambda_max, and the line at 1, above which Eq. 8 is of no use."""
    rows, y = on_axis(rows, "y", "curvature", log=False)
    y["scale"] = alt.Scale(range=place, nice=True, zero=True)
    y["axis"] = alt.Axis(tickCount=3, orient="left", offset=0)
    line = marks.base(rows, "curvature").encode(x=x, y=y)
    tips = [
        "trained:Q",
        alt.Tooltip("curvature:Q", title=METRICS["curvature"].title, format=".3~g"),
    ]
    layers = [
        line.mark_line(color=GREY, point={"filled": True, "color": GREY}).encode(tooltip=tips)
    ]
    if rows["curvature_low"].notna().any():
        bars = line.mark_rule(color=GREY, strokeWidth=1.5, opacity=0.6)
        layers.append(
            bars.encode(y=marks.like(y, "curvature_drawn_low"), y2=alt.Y2("curvature_drawn_high"))
        )
    limit = alt.Chart(pd.DataFrame({"one": [1.0]})).mark_rule(strokeDash=[4, 3], color=GREY)
    panel: alt.LayerChart = alt.LayerChart(layer=[*layers, limit.encode(y=marks.like(y, "one"))])
    return panel


def spread(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the quartiles, least and most of each estimator's samples, the least median first."""
    groups = samples.groupby(["estimator", "family"], sort=False)
    value = groups["value"]
    summed = {"order": groups["order"].first(), "count": value.count()}
    shares = {"least": 0.0, "low": 0.25, "median": 0.5, "high": 0.75, "most": 1.0}
    summed |= {name: value.quantile(share) for name, share in shares.items()}
    return pd.DataFrame(summed).sort_values("median", kind="stable").reset_index()
