"""What reproduced papers plot and nothing else here does: bounds, mini-batches, horizons."""

import altair as alt
import pandas as pd

from reports.figures import marks, style
from reports.figures.accuracy import looks
from reports.figures.style import Chart, Rows

_DECADES = [10.0**power for power in range(-9, 7)]  # where a log axis has lines
_ORDERS = {1: [6, 3], 2: [2, 2], 4: [1, 0]}
_CURVATURES = ([1, 0], [6, 3], [2, 2])


def bounds_against_order(bounds: pd.DataFrame, about: str) -> Chart:
    """Plot the theory's bounds over order L, as multiples of FOMAML's; 0, at L=K, is left out."""
    curvatures = bounds["x"].unique()
    shown = bounds[bounds["bound"] > 0].assign(
        family=bounds["estimator"], dash=bounds["x"].map("x={}".format)
    )
    chart = alt.Chart(shown[["family", "dash", "order", "bound"]]).encode(
        x=marks.order_axis(),
        y=_logarithmic("bound", "bound / bound of FOMAML"),
        color=marks.colour([*shown["family"]]),
        tooltip=[
            *(alt.Tooltip(name) for name in ("family:N", "dash:N", "order:Q")),
            alt.Tooltip("bound:Q", format=".3~g"),
        ],
    )
    dashes = {f"x={x}": dash for x, dash in zip(curvatures, _CURVATURES, strict=True)}
    layers = [
        _dashed(chart, dashes, "order"),
        chart.mark_point(filled=True, size=36, opacity=1),
    ]
    depth = bounds["order"].max()
    tips = [about, f"K={depth}, x = alpha H; 0 at L=K"]
    return style.figure(style.heading(f"Bounds, {bounds['assumption'].iloc[0]}", tips), layers)


def bias_by_mini_batch(errors: pd.DataFrame, cells: Rows) -> Chart:
    """Plot bias from one mini-batch of tasks to the next, a line for each estimator."""
    shown = errors.assign(dash=errors["order"].fillna(max(_ORDERS)).map("L={}".format))
    chart = alt.Chart(shown[["estimator", "family", "mini_batch", "bias", "dash"]]).encode(
        x=alt.X("mini_batch:Q", title="mini-batch", axis=alt.Axis(format="d", tickMinStep=1)),
        y=_logarithmic("bias", "bias (relative error)"),
        color=marks.colour([*errors["family"]]),
        detail=alt.Detail("estimator:N"),
    )
    tips = [alt.Tooltip("estimator:N"), alt.Tooltip("mini_batch:Q", title="mini-batch")]
    layers = [
        _dashed(chart, {f"L={order}": dash for order, dash in _ORDERS.items()}, "mini_batch"),
        chart.mark_point(filled=True, size=22, opacity=1).encode(
            tooltip=[*tips, alt.Tooltip("bias:Q", format=".3~g")]
        ),
    ]
    note = "a point: mean over the tasks of a mini-batch"
    return style.figure(style.title_of("Bias by mini-batch", cells, note), layers)


def against_horizon(
    lines: pd.DataFrame, text: str, unit: str, *, logarithmic: bool = False
) -> Chart:
    """Plot means over seeds against the horizon K, a line for each estimator."""
    numbers = ["value", "value_low", "value_high"]
    shown = lines.rename(columns={"low": numbers[1], "high": numbers[2]})
    scale = alt.Scale(type="log" if logarithmic else "linear", zero=False)
    depths = sorted({int(depth) for depth in lines["depth"]})
    colour, dash = looks(shown)
    chart = alt.Chart(shown[["estimator", "family", "depth", *numbers]]).encode(
        x=alt.X("depth:Q", title="horizon K (inner steps)", axis=alt.Axis(values=depths)),
        y=alt.Y("value:Q", title=unit, scale=scale, axis=alt.Axis(format="~g")),
        color=colour,
    )
    band = chart.mark_area(opacity=0.14)
    tips = [alt.Tooltip("estimator:N"), alt.Tooltip("depth:Q", title="K")]
    layers = [
        band.encode(y=marks.like(chart.encoding.y, numbers[1]), y2=alt.Y2(numbers[2])),
        chart.mark_line(strokeWidth=1.8).encode(strokeDash=dash, order=alt.Order("depth:Q")),
        chart.mark_point(filled=True, size=36, opacity=1).encode(
            tooltip=[*tips, *(alt.Tooltip(f"{name}:Q", format=".3~g") for name in numbers)]
        ),
    ]
    seeds = int(lines["seeds"].max())
    return style.figure(style.heading(text, f"bands: 95 % intervals over {seeds} seeds"), layers)


def _logarithmic(column: str, title: str) -> alt.Y:
    axis = alt.Axis(format="~g", values=_DECADES)
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(type="log"), axis=axis)


def _dashed(chart: alt.Chart, dashes: dict[str, list[int]], along: str) -> alt.Chart:
    """Draw lines that go along a column, dashed as the column "dash" says."""
    legend = alt.Legend(title=None, orient="bottom", columns=2, symbolType="stroke", symbolSize=400)
    scale = alt.Scale(domain=[*dashes], range=[*dashes.values()])
    dash = alt.StrokeDash("dash:N", scale=scale, legend=legend)
    lines: alt.Chart = chart.mark_line(strokeWidth=1.7)
    return lines.encode(strokeDash=dash, order=alt.Order(f"{along}:Q"))
