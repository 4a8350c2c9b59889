"""Bias of estimators against the products that they take: the tables of docs/beyond-taylor.md.

    python -m tools.bias_by_products measure results.csv [--task sinusoid] [--depth 5] [--seed 0]
    python -m tools.bias_by_products tables results.csv
    python -m tools.bias_by_products picture results.csv where.png

`measure` appends a row for each setting, task and estimator, in float64; settings that the file has
are left out, so that it can be stopped and goes on. Tasks are held out from meta-training. `tables`
prints Markdown: medians over the tasks of all seeds, with half their 95 % intervals. `picture`
shows the ratio of `krylov` to `truncated` over curvature and drift.
"""

import argparse
import csv
import warnings
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import altair as alt
import pandas as pd
import torch
from scipy.stats import quantile_test

from estimators import BilevelProblem, Params, create
from estimators.base.tree import axpy, norm
from estimators.hvp import hvp
from harness.cell import Cell
from harness.matrix.problems import bilevel_problems
from harness.probes.bias import relative_error
from harness.probes.curvature import largest_curvature

MODELS = {"sinusoid": "mlp-40-40(init='torch')", "glyphs:5way-1shot": "conv4-16"}
PRODUCTS, ORDERS = (1, 2, 4, 8, 10), (1, 2, 4, 8)
BINOMIAL = ("binom", "binom-chebyshev")
SETTING = ["task", "depth", "trained"]
COLUMNS = [*SETTING, "seed", "index", "estimator", "error", "hvps", "serial", "curvature", "drift"]


def specifications(depth: int, orders: Iterable[int]) -> list[str]:
    """Return the estimators to compare at a depth."""
    specs = ["fomaml"]
    for products in (n for n in PRODUCTS if n < depth):
        specs += [f"truncated(order={products})", f"krylov(products={products})"]
    return specs + [f"{name}(order={n})" for n in orders if n < depth for name in BINOMIAL]


def measure(cell: Cell, orders: Iterable[int]) -> list[list[object]]:
    """Return the rows of a setting and seed."""
    problems, theta = bilevel_problems(
        cell, range(cell.num_tasks), dtype=torch.float64, device="cpu"
    )
    exacts = [create("adjoint")(problem, theta).gradient for problem in problems]
    moved = [(largest_curvature(one, theta), drift(one, theta)) for one in problems[:8]]
    moved += [(float("nan"), float("nan"))] * (len(problems) - len(moved))
    rows: list[list[object]] = []
    for spec in specifications(cell.depth, orders):
        estimator = create(spec)
        for index, (problem, exact) in enumerate(zip(problems, exacts, strict=True)):
            result = estimator(problem, theta)
            error = relative_error(result.gradient, exact)
            counts = (result.hvps, result.serial_depth)
            setting = (cell.task, cell.depth, cell.trained, cell.seed, index, spec)
            rows.append([*setting, error, *counts, *moved[index]])
    return rows


def drift(problem: BilevelProblem, theta: Params) -> float:
    """Return ||(H_{K-1} - H_0) g|| over the mean of ||H_{K-1} g|| and ||H_0 g||."""
    *points, end = problem.trajectory(theta)
    _, g = problem.outer_gradient(end)
    one, other = (hvp(problem.inner_loss, points[k], g, engine="reverse") for k in (0, -1))
    return 2 * norm(axpy(-1.0, one, other)) / (norm(one) + norm(other))


def measure_all(path: Path, arguments: argparse.Namespace) -> None:
    """Append what is missing to the file."""
    known = set()
    if path.exists():
        known = set(pd.read_csv(path)[[*SETTING, "seed"]].itertuples(index=False, name=None))
    else:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    axes = arguments.seed, arguments.depth, arguments.trained
    for seed, depth, trained in product(*axes):
        if (arguments.task, depth, trained, seed) in known:
            continue
        cell = Cell.of(
            estimator="fomaml",
            task=arguments.task,
            model=MODELS[arguments.task],
            depth=depth,
            dtype="float64",
            seed=seed,
            num_tasks=arguments.tasks,
            trained=trained,
        )
        rows = measure(cell, arguments.order)
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        print(cell.id, flush=True)


def tables(path: Path) -> str:
    """Return the tables in Markdown: one of serial estimators, one of binomial sums, for a task."""
    rows = pd.read_csv(path)
    rows["family"] = rows["estimator"].str.partition("(")[0]
    text = ""
    for task, group in rows.groupby("task"):
        for families in (("truncated", "krylov"), BINOMIAL):
            numbers = sorted(group.loc[group["family"] == families[-1], "serial"].unique())
            heads = [f"{n}: {' / '.join(families) if n == numbers[0] else ''}" for n in numbers]
            heads = ["K, steps (alpha lambda_max, drift; seeds)", "`fomaml`", *heads]
            text += f"\n{task}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
            for (depth, trained), setting in group.groupby(["depth", "trained"]):
                size, change = setting["curvature"].median(), setting["drift"].median()
                seeds = setting["seed"].nunique()
                cells = [f"{depth}, {trained} ({size:.2g}, {change:.2g}; {seeds})"]
                for family, n in [("fomaml", 0), *((families, n) for n in numbers)]:
                    names = [family] if isinstance(family, str) else family
                    found = [
                        setting[setting["family"].eq(f) & setting["serial"].eq(n)] for f in names
                    ]
                    cells.append(" / ".join(median(each["error"]) for each in found if len(each)))
                text += f"| {' | '.join(cells)} |\n"
    means = rows.pivot_table(index=[*SETTING, "seed"], columns="estimator", values="error")
    worst = means.div(means["fomaml"], axis=0).max().drop("fomaml")
    listed = ", ".join(f"`{name}` {value:.2g}" for name, value in worst.items())
    return f"{text}\nLargest mean error of a setting and seed over FOMAML's: {listed}\n"


def median(errors: "pd.Series[float]") -> str:
    """Return the median with half the width of its 95 % interval, relative to it."""
    low, high = quantile_test(errors, q=0, p=0.5).confidence_interval()
    return f"{errors.median():.2g} ±{50 * (high - low) / errors.median():.0f} %"


def picture(path: Path, target: Path) -> None:
    """Draw where `krylov` errs less than `truncated`: a point for each setting, seed and number."""
    rows = pd.read_csv(path)
    keys = [*SETTING, "seed", "serial"]
    medians = rows.assign(family=rows["estimator"].str.partition("(")[0]).pivot_table(
        index=keys, columns="family", values="error", aggfunc="median"
    )
    where = rows.groupby([*SETTING, "seed"])[["curvature", "drift"]].median()
    points = medians.dropna(subset=["krylov", "truncated"]).join(where).reset_index()
    points["ratio"] = points["krylov"] / points["truncated"]
    chart = (
        alt.Chart(points, title="Median error of krylov over that of truncated, same products")
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("curvature", title="alpha lambda_max").scale(type="log", nice=False),
            y=alt.Y("drift", title="drift of H g over the inner loop"),
            color=alt.Color("ratio").scale(
                scheme="redblue", reverse=True, domain=[0, 2], clamp=True
            ),
            shape=alt.Shape("task"),
            column=alt.Column("serial", title="Hessian-vector products"),
        )
        .properties(width=150, height=180)
    )
    chart.save(target, scale_factor=1.2)


def main() -> None:
    """Measure, print tables, or draw a picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("measure", "tables", "picture"))
    parser.add_argument("file", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=Path("where.png"))
    parser.add_argument("--task", choices=MODELS, default="sinusoid")
    parser.add_argument("--depth", type=int, nargs="*", default=[5, 10, 20, 50])
    parser.add_argument("--trained", type=int, nargs="*", default=[0, 100, 400, 800])
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--order", type=int, nargs="*", default=ORDERS)
    parser.add_argument("--tasks", type=int, default=30)
    arguments = parser.parse_args()
    if arguments.action == "tables":
        print(tables(arguments.file))
        return
    if arguments.action == "picture":
        picture(arguments.file, arguments.target)
        return
    warnings.simplefilter("ignore")  # weights that are fallen back from, task by task
    measure_all(arguments.file, arguments)


if __name__ == "__main__":
    main()
