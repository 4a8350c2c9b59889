"""What all figures share: colours and shapes of estimators, titles, size.

Nothing here is black or white, which one of the two themes would hide.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from zlib import crc32

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from estimators.base.registry import Spec
from harness.matrix.metrics import METRICS
from reports.tables.cells import COUNTS, count_of

# Tests hold figures against the schema; Altair would do so for every part of each anew.
alt.utils.schemapi.disable_debug_mode()
alt.data_transformers.disable_max_rows()  # 5,000 of them: a sample each of 25 estimators is more

HEIGHT = 320
PANEL = (300, 240)  # of a small multiple: Vega-Lite cannot fit several panels to a page
SVG_WIDTH = 640  # on a page a figure is as wide as there is room
GREY = "#808080"  # readable on both themes; Streamlit's dark one has none of its own for subtitles
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
    "binom-chebyshev": ("#8C564B", "diamond"),
    "krylov": ("#D6278B", "circle"),
    "binom-released": ("#66C2A5", "triangle-left"),
    "neumann": ("#C51B7D", "triangle-down"),
    "mixed": ("#5E7C8A", "circle"),
    "anil": ("#B2182B", "square"),
    "hf-maml": ("#7A9A01", "cross"),
    "roulette": ("#9A5BD6", "circle"),
    "ufom": ("#17A2B8", "triangle-up"),
    "forward-gradient": ("#E4729A", "square"),
    "naive": ("#D55E00", "circle"),
    "dice": ("#009E73", "square"),
    "lvc": ("#CC79A7", "circle"),
    "loaded-dice": ("#A6761D", "diamond"),
    "implicit": ("#CC79A7", "square"),
    "lazy": ("#8C6BB1", "triangle-up"),
}
PHASES = {"inner loop": "#0072B2", "outer gradient": "#E69F00", "meta-gradient": "#009E73"}
"""Colours of the parts of an estimate; written out, since `Phase` is in a module with torch."""

_MORE_COLOURS = ("#A6761D", "#8C6BB1", "#7A9A01", "#C51B7D")
_MORE_SHAPES = ("triangle-left", "square", "circle", "diamond", "cross")
# More orders than this of one estimator, and their lines or labels make a thicket.
_FEW = 4

_BARS = {"mean": "95 % interval over tasks", "median": "quartiles"}

Rows = pd.DataFrame


class Layers(alt.TopLevelLayerSpec):
    """A chart of layers that skips the slow checks of `alt.LayerChart`."""

    def to_dict(self, validate: bool = True, **_: Any) -> dict[str, Any]:
        """Return the specification."""
        spec = super().to_dict(validate, context={"top_level": False, "datasets": {}})
        return {"$schema": alt.SCHEMA_URL, **spec}


Chart = Layers | alt.LayerChart | alt.Chart | alt.FacetChart


def look(family: str) -> tuple[str, str]:
    """Return colour and shape of an estimator, the same in every figure."""
    if family in PALETTE:
        return PALETTE[family]
    number = crc32(family.encode())
    colour = _MORE_COLOURS[number % len(_MORE_COLOURS)]
    return colour, _MORE_SHAPES[number // len(_MORE_COLOURS) % len(_MORE_SHAPES)]


def few_orders(rows: Rows) -> "pd.Series[bool]":
    """Return which rows to keep so that an estimator with many orders has only 1, 2, 4, 8, ...."""
    orders = rows.groupby("family")["order"].transform("nunique")
    power = rows["order"].map(lambda order: pd.notna(order) and int(order).bit_count() == 1)
    few: pd.Series[bool] = (orders <= _FEW) | power.astype(bool)
    return few


def numbered(rows: Rows) -> str:
    """Return what the numbers of points and lines are, if any has one."""
    shown = {count_of(Spec.parse(text)) for text in rows["estimator"][rows["order"].notna()]}
    counts = [words for name, words in COUNTS.items() if name in shown]
    return f"numbers: {' or '.join(counts)}" if counts else ""


def title_of(text: str, rows: Rows, *notes: str) -> alt.TitleParams:
    """Return a title, and below it the values that all rows share."""

    def common(*columns: str) -> str:
        same = [name for name in columns if name in rows and rows[name].nunique() == 1]
        shown = {"depth": "K = {}", "trained": "trained {} steps"}
        parts = [(shown.get(name, "{}"), rows[name].iloc[0]) for name in same]
        return ", ".join(words.format(value) for words, value in parts if value != 0)

    about = [common("task", "model"), common("depth", "trained", "device", "commit_label"), *notes]
    subtitle = [line for line in about if line]
    return heading(text, subtitle)


def heading(text: str, subtitle: str | list[str]) -> alt.TitleParams:
    """Return a title as every figure has it."""
    return alt.TitleParams(text, subtitle=subtitle, subtitleColor=GREY, anchor="start", offset=12)


def uncertainty(rows: Rows, *names: str) -> list[str]:
    """Return a line for each metric that explains its bars, or their absence."""
    lines = []
    for name in dict.fromkeys(names):
        metric = METRICS[name]
        if metric.aggregate == "value":
            why = "one sample" if metric.noisy else "deterministic"
            lines.append(f"{metric.label}: {why}, no error bars")
        elif rows[f"{name}_low"].notna().any():
            lines.append(f"{metric.label}: bars are the {_BARS[metric.aggregate]}")
        else:
            lines.append(f"{metric.label}: one sample, no error bars")
    return lines


def figure(
    title: alt.TitleParams, layers: Sequence[Any], height: int = HEIGHT, *, legend: bool = True
) -> Chart:
    """Put layers into one figure, as wide as the page allows."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    for encoding in [] if legend else _with_legend(layers):
        encoding["legend"] = None
    return Layers(
        layer=list(layers),
        datasets=_named_once(layers),
        title=title,
        width="container",
        height=height,
        autosize=fit,
    )


def _with_legend(layers: Sequence[Any]) -> Iterator[Any]:
    for layer in layers:
        for channel in ("color", "shape", "opacity"):
            encoding = layer.encoding[channel]
            if isinstance(encoding, alt.Color | alt.Shape | alt.Opacity):
                yield encoding


def _named_once(layers: Sequence[Any]) -> dict[str, Any]:
    """Give each table of the layers a name; Altair would write it out for every layer anew."""
    named: dict[int, tuple[str, Any]] = {}
    inner = [*layers]
    while inner:
        layer = inner.pop()
        if isinstance(layer, alt.LayerChart):
            inner += layer.layer
        if layer.data is not alt.Undefined:
            name, _ = named.setdefault(id(layer.data), (f"table-{len(named)}", layer.data))
            layer.data = alt.NamedData(name)
    return {name: _Table(table) for name, table in named.values()}


class _Table:
    """Rows that Altair takes as they are, where it would look at each value of a list."""

    _schema: ClassVar = {"type": "array"}  # so that Altair takes the rows

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def to_dict(self) -> list[dict[Any, Any]]:
        """Return the rows as JSON has them: without a value where it knows none."""

        def known(column: "pd.Series[Any]") -> list[Any]:
            values: list[Any] = column.tolist()
            none = column.isna().to_numpy()
            if column.dtype.kind == "f":
                none = none | np.isinf(column.to_numpy())
            for place in np.flatnonzero(none):
                values[place] = None
            return values

        columns = [known(self._rows[name]) for name in self._rows]
        return [dict(zip(self._rows, row, strict=True)) for row in zip(*columns, strict=True)]


def nothing(text: str, why: str = "No cell here has these numbers.") -> Chart:
    """Return a figure that says that there is nothing to plot."""
    data = pd.DataFrame({"text": [why]})
    words: alt.Chart = alt.Chart(data).mark_text(fontSize=13, color=GREY).encode(text="text:N")
    title = alt.TitleParams(text, anchor="start")
    return words.properties(title=title, width="container", height=HEIGHT // 4)


def multiples(heading: alt.TitleParams, layers: Sequence[Any], panels: Sequence[str]) -> Chart:
    """Put layers into a panel for each value of the column "panel", two in a row."""
    for encoding in _with_legend(layers):
        encoding["legend"]["columns"] = 4
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
    chart: alt.FacetChart = layered.properties(width=width, height=height).facet(facet, columns=2)
    # Axes of their own, or those of an odd panel stand below an empty place.
    chart = chart.properties(title=heading).resolve_axis(x="independent", y="independent")
    return chart


def _without_data(layer: alt.Chart) -> alt.Chart:
    copy = layer.copy(deep=False)
    copy.data = alt.Undefined
    return copy


def svg(spec: dict[str, Any]) -> bytes:
    """Return a figure as SVG, made without a browser or a network."""
    if spec.get("width") == "container":
        spec = spec | {"width": SVG_WIDTH}
    return vl_convert.vegalite_to_svg(spec).encode()
