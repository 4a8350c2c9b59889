"""Random estimators beside others: what is left of their spread at the cost of a biased one."""

import altair as alt
import numpy as np
import pandas as pd

from harness.matrix.metrics import LEVEL, METRICS
from reports.figures import marks, style
from reports.figures.parallel import labelled
from reports.figures.scales import on_axis
from reports.figures.style import GREY, Chart, Rows
from reports.tables.cells import is_random
from reports.tables.pareto import pareto

_COUNTS = (1, 2, 5, 10, 20, 50, 100)  # estimates of which a mean is taken
_FADED = 0.35
_TITLE = "Bias against spread at equal cost"


def bias_against_spread(rows: Rows) -> Chart:
    """Plot the error of means of estimates over their cost: spread falls with it, bias does not."""
    measured = rows[rows["rmse"].notna() & (rows["time_ratio"] > 0)]
    if not is_random(measured).any():
        return style.nothing(_TITLE, "No random estimator was timed here.")
    measured = measured[style.few_orders(measured)].reset_index(drop=True)
    every, y = on_axis(_means(measured), "y", "rmse")
    y["title"] = y["title"].replace(METRICS["rmse"].label, "error of the mean")
    heights, costs = every["rmse_drawn"], every["time_ratio"]
    domain = [float(costs.min()) / 1.3, float(costs.max()) * 2.2]  # room for labels of lines
    x = alt.X(
        "time_ratio:Q",
        title="cost (inner gradients)",
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    families = [*measured["family"]]
    columns = ("estimates", "time_ratio", "rmse", "spread", "front", "random")
    ends = every[every["random"] & (every["estimates"] == _COUNTS[-1])]
    ends = labelled(ends, ["depth"], "rmse_drawn", heights.min(), heights.max())
    named = marks.base(ends, "options", "place").encode(x=x, y=marks.like(y, "place"))
    chart = marks.base(every, *columns).encode(x=x, y=y)
    single = chart.transform_filter("datum.estimates == 1")
    dots = marks.points(single, families, "rmse", "bias", "spread")
    seen = alt.condition("datum.random || datum.front", alt.value(1), alt.value(_FADED))
    falling = chart.transform_filter("datum.random")
    count = alt.Tooltip("estimates:Q", title="mean of so many estimates")
    hover = [alt.Tooltip("estimator:N"), count, *marks.tooltip(every[["rmse"]], "rmse")]
    cost = alt.Tooltip("time_ratio:Q", title="cost (inner gradients)", format=".3~g")
    steps = falling.transform_filter("datum.estimates > 1").mark_point(size=22, filled=True)
    layers = [
        _front(every, domain[1], x, y),
        marks.lines(falling, families, "estimator", "estimates"),
        steps.encode(color=marks.colour(families), tooltip=[*hover, cost]),
        *marks.bars(single.transform_filter("datum.random || datum.front"), families, "y"),
        dots.encode(opacity=seen),
        marks.labels(named, families, "options", above=False),
    ]
    notes = (
        "lines: random estimators, the mean of 1, 2, 5, ... 100 estimates; numbers: options",
        "dashed: the least bias of all others at that cost, which a mean has, too",
        *style.uncertainty(measured, "rmse"),
    )
    return style.figure(style.title_of(_TITLE, measured, *notes), layers)


def _means(rows: Rows) -> Rows:
    """Return a row for each estimator, and for each mean over estimates of a random one."""
    random = is_random(rows)
    bias = rows["bias"].mask(rows["bias_chance"] > LEVEL, 0.0)  # none was seen
    rows = rows.assign(
        random=random,
        front=pareto(rows[~random], "time_ratio", "bias").reindex(rows.index, fill_value=False),
    )
    parts = []
    for count in _COUNTS:
        part = rows if count == 1 else rows[random]
        left = np.sqrt(bias**2 + (part["rmse"] ** 2 - bias**2).clip(lower=0) / count)
        cost = part["time_ratio"] * count
        mean = part.assign(estimates=count, rmse=left, time_ratio=cost)
        if count > 1:
            mean = mean.assign(rmse_low=np.nan, rmse_high=np.nan)
        parts.append(mean)
    return pd.concat(parts, ignore_index=True)


def _front(rows: Rows, most: float, x: alt.X, y: alt.Y) -> alt.Chart:
    """Draw the least bias of estimators that are not random, up to the highest cost."""
    best = rows[rows["front"]].sort_values("time_ratio")
    line = pd.concat([best, best.tail(1).assign(time_ratio=most)])[["time_ratio", "rmse_drawn"]]
    front: alt.Chart = (
        alt.Chart(line)
        .mark_line(interpolate="step-after", strokeDash=[4, 3], strokeWidth=1.2, color=GREY)
        .encode(x=x, y=y, order=alt.Order("time_ratio:Q"))
    )
    return front
