"""One metric against another, with the Pareto front."""

import altair as alt
import pandas as pd

from harness.matrix.metrics import METRICS
from reports.figures import marks, style
from reports.figures.scales import on_axis
from reports.figures.style import GREY, Chart, Rows
from reports.tables.cells import is_random, without_order
from reports.tables.pareto import pareto

_FADED = 0.35
_PANELS = {"depth": "K = {}", "trained": "{} steps of meta-training"}


def tradeoff(
    rows: Rows,
    x: str,
    y: str,
    *,
    x_log: bool = True,
    y_log: bool = True,
    by: str | None = None,
    exact: bool = False,
) -> Chart:
    """Plot one metric over another; the best of both stand out, the rest is faded.

    Orders of one estimator are joined by a line; `by` names the column of small multiples. With
    `exact` a rule shows where exact MAML is on the x axis.
    """
    label = METRICS[y].label
    text = f"{label[0].upper()}{label[1:]} against {METRICS[x].label}"
    rows, along_x = on_axis(rows.reset_index(drop=True), "x", x, log=x_log)
    rows, along_y = on_axis(rows, "y", y, log=y_log)
    if rows.empty:
        return style.nothing(text)
    rows = _panels(rows, x, y, by)
    families = [*rows["family"]]
    chart = marks.base(rows, x, y, "panel", "series", "front", "label").encode(x=along_x, y=along_y)
    fronted = bool(rows["front"].any())
    dots = marks.points(chart, families, x, y)
    if fronted:
        dots = dots.encode(opacity=alt.condition("datum.front", alt.value(1), alt.value(_FADED)))
    layers = [
        *([_front(chart)] if fronted else []),
        *(_exact(chart, x) if exact else []),
        *marks.bars(chart, families, "y"),
        *marks.bars(chart, families, "x"),
        dots,
    ]
    if rows["order"].notna().any():  # an estimator without orders is a point
        ordered = chart.transform_filter("isValid(datum.order)")
        joined = marks.lines(ordered, families, "series", "order")
        layers.insert(0, joined.encode(opacity=alt.value(_FADED if fronted else 1)))
        numbered = chart.transform_filter("isValid(datum.label)")
        layers.append(marks.labels(numbered, families, "label", above=True))
    signs = {
        style.numbered(rows[rows["label"].notna()]): True,
        "dashed: Pareto front, lower is better": fronted,
    }
    legend = "; ".join(sign for sign, there in signs.items() if sign and there)
    heading = style.title_of(text, rows, legend, *style.uncertainty(rows, y, x))
    if by is None:
        return style.figure(heading, layers)
    return style.multiples(heading, layers, [*rows["panel"].drop_duplicates()])


def bias_against_time(rows: Rows) -> Chart:
    """Plot bias over the time of one estimate, as a multiple of one inner gradient."""
    return tradeoff(rows, "time_ratio", _error(rows))


def bias_against_memory(rows: Rows) -> Chart:
    """Plot bias over the peak memory of one estimate."""
    return tradeoff(rows, "peak_memory", _error(rows))


def _error(rows: Rows) -> str:
    """Return the metric that estimators are compared by: what one estimate is off."""
    return "rmse" if is_random(rows).any() else "bias"


def bias_against_products(rows: Rows, products: str = "hvps") -> Chart:
    """Plot bias over Hessian-vector products, a panel for each state of meta-training.

    Random estimators are left out: of the error of one estimate their bias is the lesser part.
    """
    rows = rows[~is_random(rows)]
    by = "trained" if rows["trained"].nunique() > 1 else None
    return tradeoff(rows, products, "bias", by=by, exact=True)


def bias_against_serial_products(rows: Rows) -> Chart:
    """Plot bias over the products that must wait for one another, as `bias_against_products`."""
    return bias_against_products(rows, "serial_depth")


def _panels(rows: Rows, x: str, y: str, by: str | None) -> Rows:
    """Add panel, line and label of each row, and whether it is on the front of its panel."""
    panel = pd.Series("", index=rows.index)
    if by is not None:
        panel = rows[by].map(_PANELS.get(by, "{}").format)
    groups = rows.groupby(panel, sort=False)
    compared = METRICS[x].better == METRICS[y].better == "lower"
    fronts = [pareto(group, x, y) & compared for _, group in groups]
    few = pd.concat([style.few_orders(group) for _, group in groups])
    return rows.assign(
        panel=panel,
        series=rows["estimator"].map(without_order),
        front=pd.concat(fronts),
        label=rows["order"].where(few),
    )


def _front(chart: alt.Chart) -> alt.Chart:
    """Draw the border of the region that no estimator reaches."""
    front = chart.transform_filter("datum.front").mark_line(
        interpolate="step-after", strokeDash=[4, 3], strokeWidth=1.2, color=GREY
    )
    layer: alt.Chart = front.encode(order=alt.Order(chart.encoding.x.shorthand))
    return layer


def _exact(chart: alt.Chart, x: str) -> list[alt.Chart]:
    """Draw a rule at exact MAML, with its number, from top to bottom."""
    colour = style.look("maml")[0]
    there = chart.transform_filter("datum.estimator == 'maml'").encode(y=alt.value(0))
    return [
        there.mark_rule(color=colour, opacity=0.5).encode(y2=alt.value("height")),
        there.transform_calculate(exact=f"'exact: ' + datum.{x} + ' {METRICS[x].label}'")
        .mark_text(color=colour, fontSize=10, align="right", baseline="top", dx=-4, dy=2)
        .encode(text=alt.Text("exact:N")),
    ]
