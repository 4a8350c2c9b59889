"""The figures, one function each; dashboard and static report use the same ones.

Every function takes rows of `reports.tables.cells` that may stand in one figure, and returns a
chart as wide as the page allows.
"""

import math
from typing import Any
from zlib import crc32

import altair as alt
import numpy as np
import pandas as pd

from reports.quantities import QUANTITIES
from reports.tables import by_order

# Relative errors below this are float64 rounding: such estimators are exact.
EXACT = 1e-12
HEIGHT = 320
# First Okabe and Ito's colours without black and yellow, which one of the two themes would hide.
PALETTE = {
    "maml": ("#0072B2", "circle"),
    "adjoint": ("#56B4E9", "square"),
    "truncated": ("#D55E00", "triangle-up"),
    "binom": ("#009E73", "diamond"),
    "fomaml": ("#E69F00", "cross"),
    "imaml": ("#CC79A7", "triangle-down"),
    "reptile": ("#999999", "triangle-right"),
    "hybrid": ("#A6761D", "triangle-left"),
    "binom-calibrated": ("#8C6BB1", "diamond"),
    "binom-released": ("#66C2A5", "triangle-left"),
    "neumann": ("#C51B7D", "triangle-down"),
    "mixed": ("#5E7C8A", "circle"),
    "anil": ("#B2182B", "square"),
    "hf-maml": ("#7A9A01", "cross"),
}
_MORE_COLOURS = ("#A6761D", "#8C6BB1", "#7A9A01", "#C51B7D")
_MORE_SHAPES = ("triangle-left", "square", "circle", "diamond", "cross")
# More orders than this of one estimator, and their lines or labels make a thicket.
_FEW = 4

# Costs that hovering tells, and the columns that a figure takes along.
_TOLD = ("time_ratio", "time", "peak_memory", "flops", "hvps", "serial_depth")
_DRAWN = (
    *("estimator", "family", "order", "task", "model", "depth", "outcome", "commit_label"),
    *("machine", "bias", *_TOLD),
)

Rows = pd.DataFrame
Chart = alt.LayerChart | alt.Chart


def bias_against_time(rows: Rows) -> Chart:
    """Plots bias over the time of one estimate, as a multiple of one inner gradient.

    Args:
        rows: cells of one depth.
    """
    return _bias_against(rows, "time_ratio", "Bias against time")


def bias_against_memory(rows: Rows) -> Chart:
    """Plots bias over the peak memory of one estimate.

    Args:
        rows: cells of one depth.
    """
    return _bias_against(rows, "peak_memory", "Bias against peak memory")


def bias_against_order(rows: Rows) -> Chart:
    """Plots bias over order L, from first-order MAML (0) to the exact gradient (K).

    Args:
        rows: cells of one depth.
    """
    rows, y = _with_bias(by_order(rows))
    title = _title("Bias against order L", rows, depth=True, numbered=False)
    if rows.empty:
        return _nothing(title)
    x = alt.X("order:Q", title="order L", axis=alt.Axis(format="d", tickMinStep=1))
    base = _base(rows).encode(x=x, y=y)
    families = [*rows["line"], *rows["family"]]
    # The ends keep their own colour; the line through them has that of the estimator.
    lines = _base(rows.assign(family=rows["line"])).encode(x=x, y=y)
    lines = lines.mark_line(strokeWidth=1.5).encode(
        color=_colour(families), detail="family:N", order="order:Q"
    )
    return _figure(title, lines, *_bars(base, families, "bias"), _points(base, families))


def time_against_depth(rows: Rows) -> Chart:
    """Plots the time of one estimate over depth K.

    Args:
        rows: cells of all depths.
    """
    return _against_depth(rows, "time", "Time against depth K")


def memory_against_depth(rows: Rows) -> Chart:
    """Plots the peak memory of one estimate over depth K.

    Args:
        rows: cells of all depths.
    """
    return _against_depth(rows, "peak_memory", "Peak memory against depth K")


def style(family: str) -> tuple[str, str]:
    """Returns colour and shape of an estimator, the same in every figure.

    Args:
        family: its name without options; names from elsewhere get theirs from the name alone.
    """
    if family in PALETTE:
        return PALETTE[family]
    number = crc32(family.encode())
    colour = _MORE_COLOURS[number % len(_MORE_COLOURS)]
    return colour, _MORE_SHAPES[number // len(_MORE_COLOURS) % len(_MORE_SHAPES)]


def _bias_against(rows: Rows, cost: str, title: str) -> Chart:
    rows, y = _with_bias(rows[rows[cost] > 0])
    heading = _title(title, rows, depth=True)
    if rows.empty:
        return _nothing(heading)
    x = _log_axis("x", cost)
    base = _base(rows).encode(x=x, y=y)
    numbered = _base(_few_orders(rows[rows["order"].notna()])).encode(x=x, y=y)
    families = [*rows["family"]]
    # A line follows one estimator as its order rises; one without orders is a point.
    lines = base.transform_filter("isValid(datum.order)").mark_line(strokeWidth=1.5)
    lines = lines.encode(color=_colour(families), detail="family:N", order="order:Q")
    return _figure(
        heading,
        lines,
        *_bars(base, families, "bias"),
        *_bars(base, families, cost),
        _points(base, families),
        _order_labels(numbered, families, above=True),
    )


def _against_depth(rows: Rows, cost: str, title: str) -> Chart:
    rows = _few_orders(rows[rows[cost] > 0])
    heading = _title(title, rows, depth=False)
    if rows.empty:
        return _nothing(heading)
    depths = sorted({int(depth) for depth in rows["depth"]})
    scale = alt.Scale(type="symlog", domain=[depths[0], depths[-1]], nice=False, padding=36)
    axis = alt.Axis(values=depths, format="d")
    x = alt.X("depth:Q", title="depth K (inner steps)", scale=scale, axis=axis)
    base = _base(rows).encode(x=x, y=_log_axis("y", cost))
    families = [*rows["family"]]
    lines = base.mark_line(strokeWidth=1.5).encode(
        color=_colour(families), detail="estimator:N", order="depth:Q"
    )
    ends = _base(_line_ends(rows, cost)).encode(x=x, y=base.encoding.y)
    labels = _order_labels(ends, families, above=False)
    return _figure(heading, lines, *_bars(base, families, cost), _points(base, families), labels)


def _line_ends(rows: Rows, cost: str) -> Rows:
    """Returns a row for the last point of each line with an order, those too close as one."""
    last = rows.sort_values("depth").drop_duplicates("estimator", keep="last")
    last = last[last["order"].notna()]
    near = np.round(np.log(last[cost].astype(float)) / 0.08)
    groups = last.groupby(["family", "depth", near], sort=False)["order"]
    together = groups.transform(lambda orders: ", ".join(str(one) for one in sorted(orders)))
    ends = last.assign(order=together)
    return ends.drop_duplicates(["family", "depth", "order"])


def _few_orders(rows: Rows) -> Rows:
    """Keeps orders 1, 2, 4, 8, ... of an estimator with many orders."""
    orders = rows.groupby("family")["order"].transform("nunique")
    power = rows["order"].map(lambda order: pd.notna(order) and int(order).bit_count() == 1)
    return rows[(orders <= _FEW) | power.astype(bool)]


def _with_bias(rows: Rows) -> tuple[Rows, alt.Y]:
    """Returns the rows that have a bias, with what to draw for it, and the axis to draw it on.

    Exact estimators, whose bias is rounding, stand on a line of their own at the bottom: drawn to
    scale, ten empty decades would press all others together.
    """
    rows = rows[np.isfinite(rows["bias"].astype(float))]
    inexact = rows.loc[rows["bias"] >= EXACT, "bias"]
    least, most = (inexact.min(), inexact.max()) if len(inexact) else (1.0, 1.0)
    bottom, top = math.floor(math.log10(least)), math.ceil(math.log10(most))
    top = max(top, bottom + 1)
    exact = bottom - 1
    exact_bias = 10.0**exact
    drawn = rows["bias"].where(rows["bias"] >= EXACT, exact_bias)
    # An interval that reaches down to zero ends where the scale does.
    low = rows["bias_low"].clip(lower=10.0**bottom).where(rows["bias"] >= EXACT)
    high = rows["bias_high"].where(rows["bias"] >= EXACT)
    if len(high.dropna()):
        top = max(top, math.ceil(math.log10(high.max())))
    rows = rows.assign(bias_drawn=drawn, bias_drawn_low=low, bias_drawn_high=high)
    step = 1 + (top - bottom) // 8
    axis = alt.Axis(
        values=[exact_bias, *(10.0**decade for decade in range(top, bottom - 1, -step))],
        labelExpr=f"datum.value < {10.0 ** (exact + 0.5):g} ? 'exact' "
        ": format(datum.value, datum.value < 0.0009 ? '~e' : '~g')",
    )
    scale = alt.Scale(type="log", domain=[exact_bias, 10.0**top], nice=False)
    title = f"{QUANTITIES['bias'].title}; exact: below {EXACT:g}"
    return rows, alt.Y("bias_drawn:Q", title=title, scale=scale, axis=axis)


def _base(rows: Rows) -> alt.Chart:
    columns = [name for name in rows.columns if name.startswith(_DRAWN)]
    return alt.Chart(rows[columns])


def _points(base: alt.Chart, families: list[str]) -> alt.Chart:
    kinds = _kinds(families)
    shapes = alt.Scale(domain=kinds, range=[style(kind)[1] for kind in kinds])
    shape = alt.Shape("family:N", scale=shapes, legend=_legend())
    points = base.mark_point(filled=True, size=75, opacity=1)
    chart: alt.Chart = points.encode(color=_colour(families), shape=shape, tooltip=_tooltip())
    return chart


def _bars(base: alt.Chart, families: list[str], name: str) -> list[alt.Chart]:
    """Draws the intervals of a metric; a single number has none."""
    vertical = base.encoding.y.shorthand.removesuffix(":Q") in (name, f"{name}_drawn")
    old = base.encoding.y if vertical else base.encoding.x
    column = old.shorthand.removesuffix(":Q")
    if not base.data[f"{column}_low"].notna().any():
        return []
    there = base.transform_filter(f"isValid(datum.{column}_low)")
    low, high = old.copy(), f"{column}_high"
    low.shorthand = f"{column}_low:Q"
    bars = there.mark_rule(strokeWidth=1.5, opacity=0.45)
    ends = {"y": low, "y2": high} if vertical else {"x": low, "x2": high}
    return [bars.encode(color=_colour(families), **ends)]


def _order_labels(base: alt.Chart, families: list[str], *, above: bool) -> alt.Chart:
    dx, dy = (0, -11) if above else (9, 0)
    marks = base.mark_text(fontSize=10, align="center" if above else "left", dx=dx, dy=dy)
    labels: alt.Chart = marks.encode(text="order:N", color=_colour(families))
    return labels


def _log_axis(channel: str, name: str) -> Any:
    kind = alt.X if channel == "x" else alt.Y
    return kind(
        f"{name}:Q",
        title=QUANTITIES[name].title,
        scale=alt.Scale(type="log", nice=False, padding=18),
        axis=alt.Axis(format=".3~g", tickCount=6),
    )


def _colour(families: list[str]) -> alt.Color:
    kinds = _kinds(families)
    colours = alt.Scale(domain=kinds, range=[style(kind)[0] for kind in kinds])
    return alt.Color("family:N", scale=colours, legend=_legend())


def _kinds(families: list[str]) -> list[str]:
    known = [name for name in PALETTE if name in families]
    return known + sorted(set(families) - set(known))


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=3, symbolOpacity=1)


def _tooltip() -> list[alt.Tooltip]:
    names = [alt.Tooltip(f"{name}:N") for name in ("estimator", "task", "model")]
    bias = alt.Tooltip("bias:Q", title=QUANTITIES["bias"].title, format=".3~g")
    costs = [alt.Tooltip(f"{n}:Q", title=QUANTITIES[n].title, format=".3~g") for n in _TOLD]
    return [
        *names,
        alt.Tooltip("depth:Q", title="depth K"),
        bias,
        *costs,
        alt.Tooltip("outcome:N"),
        alt.Tooltip("commit_label:N", title="commit"),
        alt.Tooltip("machine:N"),
    ]


def _title(text: str, rows: Rows, *, depth: bool, numbered: bool = True) -> alt.TitleParams:
    if rows.empty:
        return alt.TitleParams(text)
    row = rows.iloc[0]
    where = f"K = {row['depth']}, " if depth else ""
    subtitle = [f"{row['task']}, {row['model']}", f"{where}{row['device']}, {row['commit_label']}"]
    if numbered and rows["order"].notna().any():
        subtitle.append("numbers: order L")
    # A grey that both themes leave readable; Streamlit's dark one has none of its own for this.
    return alt.TitleParams(text, subtitle=subtitle, subtitleColor="#808080", offset=12)


def _figure(title: alt.TitleParams, *layers: alt.Chart) -> Chart:
    # The height is that of the plot alone: legends of any size leave it as it is.
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    chart: alt.LayerChart = alt.LayerChart(layer=layers)
    return chart.properties(title=title, width="container", height=HEIGHT, autosize=fit)


def _nothing(title: alt.TitleParams) -> alt.Chart:
    data = pd.DataFrame({"text": ["No cell here has these numbers."]})
    words: alt.Chart = alt.Chart(data).mark_text(fontSize=13, color="#888888").encode(text="text:N")
    return words.properties(title=title, width="container", height=HEIGHT)
