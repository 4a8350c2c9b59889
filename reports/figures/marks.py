"""Marks of figures: points, lines, bars and labels in the colours of estimators; tooltips.

Channels are written as classes, as in `alt.Text("label")`: Altair takes longer to find out what a
bare string is than for all the rest of a mark.
"""

from typing import Any

import altair as alt

from harness.matrix.metrics import METRICS
from reports.figures.style import PALETTE, PHASES, Rows, look

# The columns in tooltips beside those that are drawn; a figure keeps only these.
_ALWAYS = ("bias", "time_ratio", "time", "peak_memory", "flops", "hvps", "serial_depth")
_NAMES = ("estimator", "task", "model", "depth", "trained", "outcome", "commit_label", "machine")


def base(rows: Rows, *columns: str) -> alt.Chart:
    """Return a chart of the rows, without the columns that no figure uses."""
    drawn = [name for name in map(str, rows) if "_drawn" in name and rows[name].notna().any()]
    names = [*_NAMES, "family", "order", *_ALWAYS, *columns, *drawn]
    return alt.Chart(rows[[name for name in dict.fromkeys(names) if name in rows]])


def points(chart: alt.Chart, families: list[str], *shown: str) -> alt.Chart:
    """Draw a point for each row, whose tooltip has its numbers."""
    kinds = _kinds(families)
    shapes = alt.Scale(domain=kinds, range=[look(kind)[1] for kind in kinds])
    shape = alt.Shape("family:N", scale=shapes, legend=_legend())
    marks = chart.mark_point(filled=True, size=75, opacity=1)
    layer: alt.Chart = marks.encode(
        color=colour(families), shape=shape, tooltip=tooltip(chart.data, *shown)
    )
    return layer


def lines(chart: alt.Chart, families: list[str], detail: str, order: str) -> alt.Chart:
    """Draw lines in the colours of estimators."""
    marks = chart.mark_line(strokeWidth=1.5)
    layer: alt.Chart = marks.encode(
        color=colour(families), detail=alt.Detail(f"{detail}:N"), order=alt.Order(f"{order}:Q")
    )
    return layer


def bars(chart: alt.Chart, families: list[str], channel: str) -> list[alt.Chart]:
    """Draw the intervals of the metric on one axis, if there are any."""
    old = chart.encoding[channel]
    column = old.shorthand.removesuffix(":Q")
    if f"{column}_low" not in chart.data or not chart.data[f"{column}_low"].notna().any():
        return []
    there = chart.transform_filter(f"isValid(datum.{column}_low)")
    other = alt.X2 if channel == "x" else alt.Y2
    ends = {channel: like(old, f"{column}_low"), f"{channel}2": other(f"{column}_high")}
    marks = there.mark_rule(strokeWidth=1.5, opacity=0.45)
    return [marks.encode(color=colour(families), **ends)]


def like(encoding: Any, column: str) -> Any:
    """Return an axis for another column: the same one, where both are in one figure."""
    other = encoding.copy()
    other.shorthand = f"{column}:Q"
    return other


def labels(chart: alt.Chart, families: list[str], text: str, *, above: bool) -> alt.Chart:
    """Write a column beside its points, or above and beside them, clear of bars and lines."""
    dx, dy = (5, -7) if above else (9, 0)
    marks = chart.mark_text(fontSize=10, align="left", dx=dx, dy=dy)
    layer: alt.Chart = marks.encode(text=alt.Text(f"{text}:N"), color=colour(families))
    return layer


def row_each(estimators: list[str]) -> alt.Y:
    """Return an axis with a row for each estimator."""
    return alt.Y("estimator:N", sort=estimators, axis=alt.Axis(labelLimit=300, title=None))


def order_axis() -> alt.X:
    """Return the axis of order L."""
    return alt.X("order:Q", title="order L", axis=alt.Axis(format="d", tickMinStep=1))


def colour(families: list[str]) -> alt.Color:
    """Return the colours of estimators, with their legend."""
    kinds = _kinds(families)
    colours = alt.Scale(domain=kinds, range=[look(kind)[0] for kind in kinds])
    return alt.Color("family:N", scale=colours, legend=_legend())


def phase_colour() -> alt.Color:
    """Return the colours of the column "phase", with their legend."""
    scale = alt.Scale(domain=[*PHASES], range=[*PHASES.values()])
    return alt.Color("phase:N", scale=scale, legend=alt.Legend(title=None, orient="bottom"))


def tooltip(data: Rows, *shown: str) -> list[alt.Tooltip]:
    """Return the tooltip, with those columns that the data has."""
    titles = {"depth": "depth K", "trained": "trained (steps)", "commit_label": "commit"}
    names = [alt.Tooltip(f"{name}:N", title=titles.get(name, name)) for name in _NAMES]
    metrics = [
        alt.Tooltip(f"{name}:Q", title=METRICS[name].title, format=".3~g")
        for name in dict.fromkeys([*shown, *_ALWAYS])
    ]
    every = [*names[:5], *metrics, *names[5:]]
    return [one for one in every if one.shorthand[:-2] in data]


def _kinds(families: list[str]) -> list[str]:
    known = [name for name in PALETTE if name in families]
    return known + sorted(set(families) - set(known))


def _legend() -> alt.Legend:
    columns = alt.ExprRef("width < 320 ? 2 : 3")  # of a phone, and of any other page
    return alt.Legend(title=None, orient="bottom", columns=columns, symbolOpacity=1)
