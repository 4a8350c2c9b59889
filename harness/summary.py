"""The table that a run ends with."""

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

GROUP = ["task", "model", "depth", "step_size", "device", "dtype", "seed"]


def print_summary(table: pd.DataFrame, run: str, console: Console) -> None:
    """Prints one table per task, model and depth of a run, a row per estimator.

    Args:
        table: the long table of a store.
        run: the run's name.
        console: where to.
    """
    rows = table[table["run"] == run]
    for key, group in rows.groupby(GROUP, sort=False):
        console.print(_one_table(dict(zip(GROUP, key, strict=True)), group))
        console.print()
    console.print(
        "Bias: relative error against the exact float64 meta-gradient of MAML, mean over tasks "
        "± half a 95 % interval;\ntime in units of one inner gradient, median; memory: peak of "
        "live tensors; serial: HVPs that must wait for one another.",
        style="dim",
    )
    own = rows[rows["metric"] == "own_bias"]
    if len(own):
        names = ", ".join(sorted(set(own["estimator"])))
        console.print(
            f"Own bias ({names}): against the exact gradient of the estimator's own objective.",
            style="dim",
        )
    bad = rows[~rows["outcome"].isin(["ok"])].drop_duplicates("cell")
    for outcome, cells in bad.groupby("outcome"):
        reasons = cells["reason"].value_counts()
        for reason, count in reasons.items():
            console.print(f"{outcome}: {count} cells: {reason}", markup=False, highlight=False)


def _one_table(key: dict[str, Any], group: pd.DataFrame) -> Table:
    title = (
        f"{key['task']}, {key['model']}, K={key['depth']}, alpha={key['step_size']:g}, "
        f"{key['device']}, {key['dtype']}, seed {key['seed']}"
    )
    with_own = bool((group["metric"] == "own_bias").any())
    names = ["estimator", "bias", "1 - cos", "time", "memory", "FLOPs", "HVPs", "serial"]
    if with_own:
        names.insert(2, "own bias")
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name == "estimator" else "right", no_wrap=True)
    for estimator, cell in group.groupby("estimator", sort=False):
        if (cell["outcome"] == "skipped").all():
            continue
        table.add_row(*_row(estimator, cell, with_own=with_own))
    return table


def _row(estimator: Hashable, cell: pd.DataFrame, *, with_own: bool) -> list[str]:
    if (cell["outcome"] != "ok").any():
        return [str(estimator), str(cell["outcome"].iloc[0])]
    metrics = cell.set_index("metric")

    def value(metric: str) -> float:
        return float(metrics["value"].get(metric, math.nan))

    bias = _short(value("bias"))
    half = value("bias") - float(metrics["low"].get("bias", math.nan))
    if math.isfinite(half):
        bias += f" ± {_short(half)}"
    row = [str(estimator), bias, _short(value("cosine_distance"))]
    if with_own:
        row.insert(2, _short(value("own_bias")))
    ratio = value("time_ratio")
    return [
        *row,
        f"{ratio:.1f} x" if math.isfinite(ratio) else "-",
        _scaled(value("peak_memory"), 1024, ("B", "KiB", "MiB", "GiB")),
        _scaled(value("flops"), 1000, ("", "k", "M", "G", "T")),
        _scaled(value("hvps"), 1000, ("",)),
        _scaled(value("serial_depth"), 1000, ("",)),
    ]


def _short(number: float) -> str:
    return f"{number:.1e}" if math.isfinite(number) else "-"


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    if not math.isfinite(number):
        return "-"
    power = 0
    while number >= base and power < len(units) - 1:
        number, power = number / base, power + 1
    text = f"{number:.0f}" if number == int(number) and power == 0 else f"{number:.3g}"
    return f"{text} {units[power]}".strip()
