"""What one Hessian-vector product buys over a long inner loop: tables and picture of docs/tasks.md.

    metagrad run horizons
    metagrad export --out horizons.csv
    python -m tools.long_horizons horizons.csv picture.png

Prints Markdown: medians over tasks, with half their 95 % intervals, then the bias against the own
objective of those that have one, then time and memory over those of exact MAML. Draws the bias at
the initial parameters over the depth.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import altair as alt
import pandas as pd

from reports.figures.style import look
from reports.tables.pareto import EXACT
from tools.bias_by_products import median

SETTING = ["task", "model", "trained", "depth"]
SOLID, DASHED, DOTTED = [1, 0], [6, 3], [2, 2]
LAZY, SHORT = "#666666", "#56B4E9"
Line = tuple[str, list[int]]
LINES: dict[str, Line] = {
    "fomaml": (look("fomaml")[0], SOLID),
    "truncated(order=1)": (look("truncated")[0], SOLID),
    "krylov(products=1)": (look("krylov")[0], SOLID),
    "lazy(beta=0.02)": (SHORT, SOLID),
    "binom(order=1)": (look("binom")[0], SOLID),
    "lazy": (LAZY, SOLID),
    "lazy(at='start')": (LAZY, DASHED),
    "lazy(at='last')": (LAZY, DOTTED),
}
"""Colour and dashes of each estimator that follows MAML's own objective."""


def tables(rows: pd.DataFrame) -> str:
    """Return all tables in Markdown."""
    own = [*rows[rows["metric"] == "own_bias"]["estimator"].unique()]
    first = rows[rows["trained"] == 0]
    return "\n\n".join(
        [
            table(rows, "bias", [*LINES], with_interval),
            table(rows, "bias", own, with_interval),
            table(rows, "own_bias", own, with_interval),
            table(over_maml(first, "time"), "time", [*LINES], plain),
            table(over_maml(first, "peak_memory"), "peak_memory", [*LINES], plain),
        ]
    )


def table(
    rows: pd.DataFrame,
    metric: str,
    estimators: Sequence[str],
    shown: Callable[[list[float]], str],
) -> str:
    """Return a table of a metric in Markdown: a row a setting, a column an estimator."""
    heads = ["setting, steps, K (alpha lambda_max)", *(f"`{name}`" for name in estimators)]
    text = [metric, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (task, model, trained, depth), group in rows.groupby(SETTING):
        curvature = plain(group[group["metric"] == "curvature"]["samples"].iloc[0])
        found = group[group["metric"] == metric].set_index("estimator")["samples"]
        cells = [f"{task} {model}, {trained}, {depth} ({curvature})"]
        cells += [shown(found[name]) for name in estimators]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def over_maml(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the median of a metric over that of exact MAML, as the one sample of each row."""
    samples = rows[rows["metric"] == metric].set_index([*SETTING, "estimator"])["samples"]
    medians = samples.map(statistics.median)
    ratios = medians / medians.xs("maml", level="estimator")
    alone = ratios.map(lambda ratio: [ratio]).reset_index().assign(metric=metric)
    return pd.concat([alone, rows[rows["metric"] == "curvature"]])


def plain(samples: list[float]) -> str:
    """Return the median."""
    return f"{statistics.median(samples):.2g}"


def with_interval(samples: list[float]) -> str:
    """Return the median with half the width of its 95 % interval, relative to it."""
    return median(pd.Series(samples))


def picture(rows: pd.DataFrame, target: Path, named: dict[str, Line] = LINES) -> None:
    """Draw the median bias over depth at the initial parameters: a panel for each setting."""
    chosen = rows[(rows["metric"] == "bias") & (rows["trained"] == 0)]
    chosen = chosen[chosen["estimator"].isin(named)]
    points = chosen.assign(
        bias=chosen["samples"].map(statistics.median),
        setting=chosen["task"] + ", " + chosen["model"],
    )[["setting", "estimator", "depth", "bias"]]
    points = points[points["bias"] > EXACT]  # which have no place on a log axis
    names = list(named)
    colours, dashes = zip(*named.values(), strict=True)
    legend = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=2, symbolSize=500)
    lines = (
        alt.Chart(points)
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=alt.X("depth:Q", title="depth K (inner steps)")
            .scale(type="log", nice=False, padding=12)
            .axis(values=sorted(points["depth"].unique()), format="d"),
            y=alt.Y("bias:Q", title="bias (median relative error)")
            .scale(type="log", nice=False, padding=10)
            .axis(values=[10.0**decade for decade in range(-9, 4)], format="~g"),
            color=alt.Color("estimator:N", sort=names, legend=legend).scale(
                domain=names, range=list(colours)
            ),
            strokeDash=alt.StrokeDash("estimator:N", sort=names, legend=legend).scale(
                domain=names, range=list(dashes)
            ),
            column=alt.Column("setting:N", title=None, sort=[*points["setting"].unique()]),
        )
        .properties(width=210, height=260)
    )
    lines.save(target, scale_factor=1.5)


def exported(source: Path) -> pd.DataFrame:
    """Read what `metagrad export` has written, with lists of samples."""
    rows = pd.read_csv(source)
    rows = rows[rows["samples"].notna()]
    return rows.assign(samples=rows["samples"].map(json.loads))


def main(source: Path, target: Path) -> None:
    """Print tables and draw the picture."""
    rows = exported(source)
    print(tables(rows))
    picture(rows, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
