"""The table that a run ends with."""

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from estimators.base.registry import Spec
from harness.matrix.metrics import LEVEL
from harness.matrix.notes import sorted_notes
from harness.support.units import bytes_text, count_text

GROUP = ["task", "model", "depth", "step_size", "device", "dtype", "seed", "trained"]


def print_summary(rows: pd.DataFrame, console: Console, against: str | None = None) -> None:
    """Print one table per task, model and depth of a run, a row per estimator."""
    for key, group in rows[rows["outcome"] != "skipped"].groupby(GROUP):
        title = _title(dict(zip(GROUP, key, strict=True)), group)
        console.print(title, style="bold", highlight=False, markup=False)
        console.print(_one_table(group, against))
        console.print()
    console.print(
        "bias: relative error against MAML's exact float64 meta-gradient, mean over tasks and "
        "half its\n95 % interval (own objective: against that one's exact gradient); time: in "
        "inner gradients,\nmedian; memory: peak of live tensors; serial: HVPs that must wait for "
        "one another" + ("; time / ...: median ratio and quartiles." if against else "."),
        style="dim",
        soft_wrap=True,
    )
    if (rows["metric"] == "rmse").any():
        console.print(
            "Of random estimators, bias is that of the mean over draws, 0 (<limit) where none was "
            "seen at the\n95 % level; one estimate: root mean square of its error.",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
    if (rows["metric"] == "bias_t2").any():
        console.print(
            "Where inner steps can be drawn, bias is to exact ones (T1); to T2: to the gradient of "
            "the expected outer\nloss after drawn ones.",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
    disturbed, others = sorted_notes(rows.drop_duplicates("cell")["notes"])
    if disturbed:
        example = Counter(disturbed).most_common(1)[0][0]
        console.print(
            f"* {len(disturbed)} of {rows['cell'].nunique()} cells were disturbed, such as: "
            f"{example}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for note, count in others.most_common():
        console.print(f"{count} × {note}", markup=False, highlight=False, soft_wrap=True)
    bad = rows[rows["outcome"] != "ok"].drop_duplicates("cell")
    for text, count in (bad["outcome"] + ": " + bad["reason"]).value_counts().items():
        console.print(f"{count} × {text}", markup=False, highlight=False, soft_wrap=True)


def _title(key: dict[str, Any], group: pd.DataFrame) -> str:
    title = (
        f"{key['task']}, {key['model']}, K={key['depth']}, alpha={key['step_size']:g}, "
        f"{key['device']}, {key['dtype']}, seed {key['seed']}"
    )
    if key["trained"]:
        title += f", after {key['trained']} meta-training steps"
    curvature = group.loc[group["metric"] == "curvature", "value"].mean()
    return title + (f", alpha lambda_max {_short(curvature)}" if math.isfinite(curvature) else "")


def _one_table(group: pd.DataFrame, against: str | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("estimator", "bias", "1 - cos", "time", "memory", "FLOPs", "HVPs", "serial"):
        spec = name == "estimator"  # folded on a narrow screen: the rows differ in it
        table.add_column(name, justify="left" if spec else "right", no_wrap=not spec)
    for name in (f"time / {against}", f"memory / {against}") if against else ():
        table.add_column(name, justify="right", no_wrap=True)
    base = group[group["estimator"] == against]
    for estimator, cell in sorted(group.groupby("estimator"), key=lambda pair: _order(pair[0])):
        first, *more = _rows(str(estimator), cell)
        table.add_row(*first, *(_multiples(cell, base) if against and len(first) > 2 else ()))
        for row in more:
            table.add_row(*row)
    return table


def _order(estimator: Hashable) -> tuple[str, list[tuple[str, str, Any]]]:
    """Sort by name, then by options as numbers: order=10 after order=2."""
    spec = Spec.parse(str(estimator))
    options = sorted(spec.options.items())
    return spec.name, [(key, type(value).__name__, value) for key, value in options]


def _rows(estimator: str, cell: pd.DataFrame) -> Iterator[list[str]]:
    ended = str(cell["outcome"].iloc[0])
    if not cell["metric"].any():
        yield [estimator, ended]
        return
    metrics = cell.set_index("metric")

    def value(metric: str) -> float:
        return float(metrics["value"].get(metric, math.nan))

    def bias(metric: str) -> str:
        if metric == "bias" and value("bias_chance") > LEVEL:
            return f"0 (<{_short(value('bias_limit'))})"
        half = value(metric) - float(metrics["low"].get(metric, math.nan))
        return _short(value(metric)) + (f" ±{_short(half)}" if math.isfinite(half) else "")

    ratio, noted = value("time_ratio"), " *" if sorted_notes(cell["notes"][:1])[0] else ""
    time = f"{ratio:.1f} x{noted}" if math.isfinite(ratio) else "-"
    yield [
        estimator,
        bias("bias"),
        _short(value("cosine_distance")),
        time if ended == "ok" else ended,
        bytes_text(value("peak_memory")),
        *(count_text(value(metric)) for metric in ("flops", "hvps", "serial_depth")),
    ]
    if "bias_t2" in metrics.index:
        yield ["  to T2", bias("bias_t2")]
    if "rmse" in metrics.index:
        yield ["  one estimate", bias("rmse")]
    if "own_bias" in metrics.index:
        yield ["  own objective", bias("own_bias")]


def _multiples(cell: pd.DataFrame, base: pd.DataFrame) -> list[str]:
    """Return time and memory over those of a base, with the quartiles of time."""
    mine, its = (rows.set_index("metric")["samples"] for rows in (cell, base))
    texts = []
    for metric in ("time", "peak_memory"):
        if metric not in mine or metric not in its:
            texts.append("-")
            continue
        ratios = pd.Series([a / b for a, b in zip(mine[metric], its[metric], strict=True)])
        low, middle, high = ratios.quantile([0.25, 0.5, 0.75])
        texts.append(f"{middle:.2f}" + (f" ({low:.2f}..{high:.2f})" if len(ratios) > 1 else ""))
    return texts


def _short(number: float) -> str:
    return f"{number:.2g}" if math.isfinite(number) else "-"
