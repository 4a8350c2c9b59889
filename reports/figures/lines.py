"""A metric over depth or over meta-training: a line for each estimator."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from reports.figures import marks, style
from reports.figures.scales import on_axis
from reports.figures.style import Chart, Rows


def over_depth(
    rows: Rows, metric: str, text: str, *, notes: Sequence[str] = (), extra: str = ""
) -> Chart:
    """Plot a metric over depth K."""
    rows, y = on_axis(rows[style.few_orders(rows)], "y", metric)
    if rows.empty:
        return style.nothing(text)
    depths = sorted({int(depth) for depth in rows["depth"]})
    scale = alt.Scale(type="symlog", domain=[depths[0], depths[-1]], nice=False, padding=44)
    axis = alt.Axis(values=depths, format="d")
    x = alt.X("depth:Q", title="depth K (inner steps)", scale=scale, axis=axis)
    layers = line_layers(rows, metric, x, y, extra)
    lines = [style.numbered(rows), *notes, *style.uncertainty(rows, metric)]
    return style.figure(style.title_of(text, rows, *lines), layers)


def line_layers(rows: Rows, metric: str, x: alt.X, y: Any, extra: str = "") -> list[Any]:
    """Draw lines, bars, points, and the order of each line at its end."""
    along = x.shorthand.removesuffix(":Q")
    families = [*rows["family"]]
    chart = marks.base(rows, along, metric, extra).encode(x=x, y=y)
    ends = marks.base(_line_ends(rows, along, metric), along, "label", "place")
    layers = [
        marks.lines(chart, families, "estimator", along),
        *marks.bars(chart, families, "y"),
        marks.points(chart, families, metric),
        marks.labels(ends.encode(x=x, y=marks.like(y, "place")), families, "label", above=False),
    ]
    if extra:
        there = chart.transform_filter(f"isValid(datum.{extra})").encode(y=marks.like(y, extra))
        line = marks.lines(there, families, "estimator", along)
        layers.insert(1, line.mark_line(strokeWidth=1.2, strokeDash=[4, 3], opacity=0.7))
    return layers


def _line_ends(rows: Rows, along: str, metric: str) -> Rows:
    """Return a row for the last point of each line with an order, and where to write it.

    Orders of one estimator that end at one place are written as one; others are pushed apart.
    """
    last = rows.sort_values(along).drop_duplicates("estimator", keep="last")
    last = last[last["order"].notna()].assign(label="", place=0.0)
    if last.empty:
        return last
    heights = np.log(last[f"{metric}_drawn"].astype(float))
    every = np.log(rows[f"{metric}_drawn"].astype(float))
    gap = 0.035 * max(np.ptp(every), 2.0)
    places = [*zip(last["family"], last[along], np.round(heights / gap), strict=True)]
    together = defaultdict(list)
    for place, order in zip(places, last["order"], strict=True):
        together[place].append(order)
    labels = [", ".join(map(str, sorted(together[place]))) for place in places]
    last = last.assign(label=labels, place=heights)
    ends = last.drop_duplicates(["family", along, "label"]).sort_values("place", kind="stable")
    return ends.assign(place=np.exp(apart(ends["place"].to_numpy(), gap, every.max())))


def apart(places: "np.ndarray[Any, np.dtype[np.float64]]", gap: float, top: float) -> list[float]:
    """Move places up, and from the top down again, until none are nearer than a gap."""
    moved = [float(place) for place in places]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    if moved:
        moved[-1] = min(moved[-1], max(top, float(places[-1])))
    for i in range(len(moved) - 1, 0, -1):
        moved[i - 1] = min(moved[i - 1], moved[i] - gap)
    return moved
