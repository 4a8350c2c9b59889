"""Figures of meta-training: learning curves, test results, differences to exact MAML."""

import textwrap

import altair as alt
import numpy as np
import pandas as pd

from harness.matrix.metrics import metric_of
from reports.figures import marks, style
from reports.figures.style import GREY, Chart, Rows
from reports.tables.accuracy import EXACT, difference_title, setting_text

_NOTHING = "No training here has these numbers."
_LINE = 60  # characters that fit below a title where two figures share a page
_ROW = 26  # pixels of an estimator where each has a row
# Lines of one colour, such as the orders of one estimator, differ in their dashes.
_DASHES = ([1, 0], [7, 3], [2, 2], [9, 2, 2, 2])
_MEAN = ("value", "value_low", "value_high", "over", "seeds", "tasks")


def learning_curves(curves: Rows) -> Chart:
    """Plot a metric over steps of meta-training, a line for each estimator."""
    rows = curves[style.few_orders(curves)]
    shown = _finite(rows)
    if shown.empty:
        return style.nothing("Learning curves", _NOTHING)
    metric, split = metric_of(shown["metric"].iloc[0]), shown["split"].iloc[0]
    chart = _chart(shown, "step").encode(
        x=alt.X("step:Q", title="meta-training (steps)", axis=alt.Axis(format="d", tickMinStep=1)),
        y=alt.Y("value:Q", title=metric.title, scale=alt.Scale(zero=False)),
    )
    colour, dash = looks(shown)
    band = chart.transform_filter("isValid(datum.value_low)").mark_area(opacity=0.14)
    layers = [
        band.encode(
            y=marks.like(chart.encoding.y, "value_low"), y2=alt.Y2("value_high"), color=colour
        ),
        chart.mark_line(strokeWidth=1.8).encode(
            color=colour, strokeDash=dash, order=alt.Order("step:Q")
        ),
        chart.mark_point(filled=True, size=28, opacity=1).encode(
            color=colour, tooltip=_tooltip(metric.title, "step")
        ),
    ]
    text = f"{split.capitalize()} {metric.label} along meta-training"
    return style.figure(_title(text, rows, "bands"), layers)


def test_accuracy(results: Rows) -> Chart:
    """Plot how good each estimator's training is on the held-out tasks, a row for each."""
    shown = _finite(results)
    if shown.empty:
        return style.nothing("Test results", _NOTHING)
    metric = metric_of(shown["metric"].iloc[0])
    x = _along(metric.title)
    title = _title(f"Test {metric.label} by estimator", results, "bars")
    layers = _dots(_chart(shown).encode(x=x), _tooltip(metric.title))
    return style.figure(title, layers, _ROW * len(shown), legend=False)


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def paired_differences(differences: Rows) -> Chart:
    """Plot how far each estimator is from exact MAML, a row for each, around the line at 0."""
    shown = _finite(differences)
    if shown.empty:
        return style.nothing(f"Differences to {EXACT}", _NOTHING)
    metric = metric_of(shown["metric"].iloc[0])
    x = _along(difference_title(metric.name))
    line = alt.Chart(pd.DataFrame({"none": [0.0]})).encode(x=marks.like(x, "none"))
    title = _title(f"Test {metric.label} beside {EXACT}, on the same tasks", differences, "bars")
    layers = [
        line.mark_rule(color=GREY, strokeDash=[4, 3]),
        *_dots(_chart(shown, "verdict").encode(x=x), _tooltip("difference", "verdict")),
    ]
    return style.figure(title, layers, _ROW * len(shown), legend=False)


def _finite(rows: Rows) -> Rows:
    finite: Rows = rows[np.isfinite(rows["value"].astype(float))]
    return finite


def _chart(rows: Rows, *columns: str) -> alt.Chart:
    """Return a chart of the columns that figures use, with the names that `marks` expects."""
    named = rows.rename(columns={"low": "value_low", "high": "value_high"})
    return alt.Chart(named[["estimator", "family", *_MEAN, "commit_label", *columns]])


def _along(title: str) -> alt.X:
    scale = alt.Scale(zero=False, padding=12)
    return alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, labelFlush=False))


def _dots(chart: alt.Chart, tips: list[alt.Tooltip]) -> list[alt.Chart]:
    chart = chart.encode(y=marks.row_each([*chart.data["estimator"]]))
    families = [*chart.data["family"]]
    dots: alt.Chart = marks.points(chart, families).encode(tooltip=tips)
    return [*marks.bars(chart, families, "x"), dots]


def looks(rows: Rows) -> tuple[alt.Color, alt.StrokeDash]:
    """Return a colour for each family and a dash for each of its lines, with one legend."""
    names = rows.drop_duplicates("estimator")
    colours = names["family"].map(lambda family: style.look(family)[0])
    place = names.groupby(colours, sort=False).cumcount()
    dashes = [_DASHES[number % len(_DASHES)] for number in place]
    legend = alt.Legend(
        title=None, orient="bottom", columns=2, symbolType="stroke", symbolSize=700, symbolOpacity=1
    )
    domain = [*names["estimator"]]
    return (
        alt.Color("estimator:N", scale=alt.Scale(domain=domain, range=[*colours]), legend=legend),
        alt.StrokeDash("estimator:N", scale=alt.Scale(domain=domain, range=dashes), legend=legend),
    )


def _tooltip(title: str, *more: str) -> list[alt.Tooltip]:
    titles = {"value": title, "value_low": "from (95 %)", "value_high": "to (95 %)"}
    numbers = [alt.Tooltip(f"{name}:Q", title=text, format=".4~g") for name, text in titles.items()]
    names = [alt.Tooltip(f"{name}:N") for name in ("estimator", *more)]
    counts = [alt.Tooltip(f"{name}:Q") for name in ("seeds", "tasks")]
    over = alt.Tooltip("over:N", title="interval over")
    return [*names, *numbers, over, *counts, alt.Tooltip("commit_label:N", title="commit")]


def _title(text: str, rows: Rows, what: str) -> alt.TitleParams:
    """Return a title, with the training options and the kind of interval."""
    shown = _finite(rows)
    _, outer = setting_text(shown)
    missing = sorted(set(rows["estimator"]) - set(shown["estimator"]))
    left_out = f"without a finite number: {', '.join(missing)}" if missing else ""
    wrapped = textwrap.wrap(outer, _LINE)
    return style.title_of(text, shown, *wrapped, _intervals(shown, what), left_out)


def _intervals(rows: Rows, what: str) -> str:
    kinds = []
    for over, part in rows[rows["over"] != ""].groupby("over", sort=False):
        least, most = part["seeds"].min(), part["seeds"].max()
        seeds = f"{most} seeds" if least == most else f"{least} to {most} seeds"
        kinds.append(seeds if over == "seeds" else "the tasks of one seed")
    return (
        f"{what}: 95 % intervals over {' or '.join(kinds)}" if kinds else f"no {what}: one number"
    )
