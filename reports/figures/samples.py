"""Samples in the order in which they were taken: drifts and disturbances show."""

import altair as alt
import pandas as pd

from reports.figures import style
from reports.figures.style import GREY, Chart

_PANEL = 90  # pixels of each metric
_GAP = 34


def samples_in_order(samples: pd.DataFrame) -> Chart:
    """Plot the samples of one cell over their number, a panel for each metric."""
    text = "Samples in the order in which they were taken"
    if samples.empty:
        return style.nothing(text)
    x = alt.X("sample:Q", title="sample", axis=alt.Axis(format="d", tickMinStep=1))
    panels = []
    names = [*samples["metric"].drop_duplicates()]
    for number, name in enumerate(names):
        below = number * (_PANEL + _GAP) + _PANEL
        y = alt.Y(
            "value:Q",
            title=name,
            scale=alt.Scale(range=[below, below - _PANEL], zero=False),
            # The title above its panel: beside it there is too little room.
            axis=alt.Axis(
                tickCount=3,
                format=".4~g",
                orient="left",
                offset=0,
                titleAngle=0,
                titleAlign="left",
                titleBaseline="bottom",
                titleX=0,
                titleY=below - _PANEL - 5,
            ),
        )
        tips = [alt.Tooltip("sample:Q"), alt.Tooltip("value:Q", title=name, format=".4~g")]
        line = alt.Chart(samples[samples["metric"] == name]).encode(x=x, y=y, tooltip=tips)
        dots = {"filled": True, "color": GREY, "size": 45}
        panels.append(line.mark_line(color=GREY, point=dots))
    height = len(names) * (_PANEL + _GAP) - _GAP
    # Panels of one plot, since Vega-Lite fits a plot to the page, but no stack of plots.
    stacked: alt.LayerChart = alt.LayerChart(layer=panels).resolve_scale(y="independent")
    return style.figure(style.heading(text, ""), [stacked], height)
