"""Time of estimators whose products run in parallel: against exact MAML and serial depth."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from estimators.base.errors import OptionError
from estimators.base.registry import Spec
from harness.matrix.metrics import METRICS
from reports.figures import marks, style
from reports.figures.lines import apart
from reports.figures.scales import on_axis
from reports.figures.style import GREY, Chart, Rows
from reports.tables.cells import count_of

_GAP = 0.045  # between two labels, of the height of a figure
_TICKS = [float(f"{m}e{e}") for e in range(-3, 4) for m in (1, 2, 5)]
_TITLE = "time / time of exact MAML (×)"


def time_over_exact(compared: Rows, break_evens: Rows) -> Chart:
    """Plot time over that of exact MAML over depth K, a panel for each model."""
    text = "Time over that of exact MAML against depth K"
    rows = compared[compared["over_exact"].gt(0) & style.few_orders(compared)]
    if rows.empty:
        return style.nothing(text, "Exact MAML was not timed beside any cell here.")
    depths = sorted({int(depth) for depth in rows["depth"]})
    every = [*rows["over_exact"], 1.0]
    bottom, top = min(every) / 1.3, max(every) * 1.3
    ticks = [tick for tick in _TICKS if bottom <= tick <= top]
    x = alt.X(
        "depth:Q",
        title="depth K (inner steps)",
        # Room for labels at the ends of lines, on an axis without round ends.
        scale=alt.Scale(type="log", domain=[depths[0] / 1.15, depths[-1] * 2.2], nice=False),
        axis=alt.Axis(values=depths, format="d"),
    )
    y = alt.Y(
        "over_exact:Q",
        title=_TITLE,
        scale=alt.Scale(type="log", domain=[bottom, top], nice=False, clamp=True),
        axis=alt.Axis(values=ticks, format="~g"),
    )
    ends = rows.sort_values("depth").drop_duplicates(["model", "estimator"], keep="last")
    ends = labelled(ends, ["model", "depth"], "over_exact", bottom, top).assign(over_exact=np.nan)
    from_depth = break_evens["from_depth"]
    rings = break_evens[np.isfinite(from_depth) & (from_depth > 0)]
    rings = rings[rings["estimator"].isin(rows["estimator"])]
    rings = rings.assign(depth=rings["from_depth"], break_even=1.0)
    drawn = pd.concat([rows, ends, rings], ignore_index=True)
    one = pd.Series(1.0, drawn.index).mask(drawn.duplicated("model"))  # one line a panel
    drawn = drawn.assign(panel=drawn["model"], one=one)
    drawn["order"] = drawn["order"].astype("Int64")
    words = [*drawn.select_dtypes(["object", "str"])]  # of which JSON has no missing ones
    drawn[words] = drawn[words].fillna("")
    families = [*rows["family"]]
    columns = ["over_exact", "over_exact_low", "over_exact_high"]
    columns += ["options", "place", "break_even", "one"]
    chart = marks.base(drawn, "panel", *columns).encode(x=x, y=y)
    measured = chart.transform_filter("isValid(datum.over_exact)")
    ratio = [alt.Tooltip("over_exact:Q", title=_TITLE, format=".3~g")]
    dots = marks.points(measured, families)
    where = [
        alt.Tooltip("estimator:N"),
        alt.Tooltip("depth:Q", title="break-even depth", format=".3~g"),
    ]
    ringed = chart.transform_filter("isValid(datum.break_even)").mark_point(
        shape="circle", filled=False, size=190, strokeWidth=2
    )
    layers = [
        chart.transform_filter("isValid(datum.one)")
        .mark_rule(strokeDash=[4, 3], color=GREY)
        .encode(x=alt.value(0), x2=alt.value("width"), y=marks.like(y, "one")),
        marks.lines(measured, families, "estimator", "depth"),
        *marks.bars(measured, families, "y"),
        dots.encode(tooltip=[*ratio, *dots.encoding.tooltip]),
        ringed.encode(y=marks.like(y, "break_even"), color=marks.colour(families), tooltip=where),
        marks.labels(
            chart.transform_filter("isValid(datum.place)").encode(y=marks.like(y, "place")),
            families,
            "options",
            above=False,
        ),
    ]
    notes = (
        "dashed: exact MAML; rings: break-even depth; labels: options",
        "bars are the quartiles of ratios sample by sample",
    )
    # A panel has its model's name already.
    heading = style.title_of(text, rows.drop(columns="model"), *notes)
    return style.multiples(heading, layers, [*rows["model"].drop_duplicates()])


def time_against_serial_depth(rows: Rows) -> Chart:
    """Plot time in inner gradients over the products that must wait for one another."""
    text = "Time in inner gradients against serial HVPs"
    rows = rows[rows["serial_depth"].notna() & style.few_orders(rows)]
    rows, y = on_axis(rows, "y", "time_ratio")
    if rows.empty:
        return style.nothing(text)
    heights = rows[[f"time_ratio_drawn{end}" for end in ("", "_low", "_high")]]
    bottom, top = float(np.nanmin(heights)), float(np.nanmax(heights))
    most = int(rows["serial_depth"].max())
    x = alt.X(
        "serial_depth:Q",
        title=METRICS["serial_depth"].label,
        scale=alt.Scale(domain=[0, max(most, 1) * 1.25], nice=False, padding=10),
        axis=alt.Axis(format="d", tickMinStep=1),
    )
    families = [*rows["family"]]
    chart = marks.base(rows, "serial_depth").encode(x=x, y=y)
    named = labelled(rows, ["serial_depth"], "time_ratio_drawn", bottom, top)
    ends = marks.base(named, "serial_depth", "options", "place").encode(
        x=x, y=marks.like(y, "place")
    )
    layers = [
        *marks.bars(chart, families, "y"),
        marks.points(chart, families, "time_ratio", "serial_depth"),
        marks.labels(ends, families, "options", above=False),
    ]
    notes = ["labels: options", *style.uncertainty(rows, "time_ratio")]
    return style.figure(style.title_of(text, rows, *notes), layers)


def options_text(estimator: str) -> str:
    """Return the options of an estimator in short, for a label beside its coloured point.

    Example:
        >>> options_text("binom(order=2, batching='vmap', compiled=True)"), options_text("maml")
        ('2, compiled, vmap', '')
    """
    try:
        spec = Spec.parse(estimator)
    except OptionError:
        return ""
    count = count_of(spec)
    order = [str(spec.options[count])] if count else []
    others = [
        name if value is True else str(value)
        for name, value in sorted(
            spec.options.items(), key=lambda one: (one[1] is not True, one[0])
        )
        if name != count
    ]
    return ", ".join(order + others)


def labelled(rows: Rows, by: list[str], height: str, bottom: float, top: float) -> Rows:
    """Return the rows that have options, with these and a free place to write them."""
    rows = rows.assign(options=rows["estimator"].map(options_text), place=np.nan)
    rows = rows[rows["options"] != ""].sort_values(height, kind="stable")
    gap = _GAP * max(np.log(top / bottom), 1.0)
    parts: list[Any] = []
    for _, part in rows.groupby(by, sort=False):
        places = apart(np.log(part[height].to_numpy(dtype=float)), gap, np.log(top))
        parts.append(part.assign(place=np.exp(places)))
    return pd.concat(parts) if parts else rows
