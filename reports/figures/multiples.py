"""Small multiples: the same figure of several parts of the rows."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from reports.figures.style import GREY, Chart

PANEL = (300, 240)
"""Width and height of a small multiple: Vega-Lite cannot fit several panels to a page."""


def multiples(heading: alt.TitleParams, layers: Sequence[Any], panels: Sequence[str]) -> Chart:
    """Puts layers into a panel for each value of the column "panel", two in a row."""
    layered: alt.LayerChart = alt.LayerChart(
        data=layers[0].data, layer=[_without_data(layer) for layer in layers]
    )
    facet = alt.Facet(
        "panel:N",
        title=None,
        sort=[*panels],
        header=alt.Header(labelFontWeight="bold", labelColor=GREY),
    )
    width, height = PANEL
    found: alt.FacetChart = layered.properties(width=width, height=height).facet(facet, columns=2)
    # Axes of their own, or those of an odd panel stand below an empty place.
    found = found.properties(title=heading).resolve_axis(x="independent", y="independent")
    return found


def _without_data(layer: alt.Chart) -> alt.Chart:
    copy = layer.copy(deep=False)
    copy.data = alt.Undefined
    return copy
