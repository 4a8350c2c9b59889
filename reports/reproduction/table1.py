"""Table 1: few-shot accuracy after meta-training with each estimator."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from harness.commands.reproduce import Scale
from reports import figures
from reports.reproduction import paper
from reports.reproduction.piece import Measurements, Piece
from reports.tables.accuracy import EXACT, differences, settings, test_results

_METRIC = "accuracy"


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the table from the tests of trainings, for each task."""
    rows = measured.trained("table1", scale)
    if not ((rows["metric"] == _METRIC) & (rows["split"] == "test")).any():
        return None
    parts = settings(rows)
    results = [test_results(part, _METRIC) for part in parts]
    apart = [differences(part, _METRIC) for part in parts]
    data = pd.concat(results, ignore_index=True)
    compared = pd.concat(apart, ignore_index=True)
    names = ["task", "model", "estimator"]
    both = data.merge(
        compared[[*names, "value", "low", "high", "text"]], "left", names, suffixes=("", "_less")
    )
    columns = [*names, "value", "low", "high", "over", "seeds", "tasks"]
    return Piece(
        name="table1",
        title="Few-shot accuracy on classes never seen, by estimator",
        charts=[
            *(partial(figures.test_accuracy, table) for table in results),
            *(partial(figures.paired_differences, table) for table in apart),
        ],
        table=_readable(both),
        data=both[[*columns, "value_less", "low_less", "high_less"]],
        notes=[*compared["text"].map("{}.".format), *filter(None, map(_beside_paper, apart))],
    )


def _readable(both: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in both.to_dict("records"):
        theirs = paper.ACCURACY.get(row["estimator"], (math.nan,) * len(paper.TASKS))
        rows.append(
            {
                **{"task": row["task"], "estimator": row["estimator"]},
                "accuracy (%)": _interval(row, ""),
                f"less that of {EXACT}": _interval(row, "_less"),
                "seeds": row["seeds"],
                **{
                    f"paper: {task.replace(':', ', ')}": f"{value:.2f}" if value == value else ""
                    for task, value in zip(paper.TASKS, theirs, strict=True)
                },
            }
        )
    table = pd.DataFrame(rows)
    return table.drop(columns="task") if table["task"].nunique() == 1 else table


def _interval(row: Mapping[Any, Any], which: str) -> str:
    value, low, high = (row[f"{name}{which}"] for name in ("value", "low", "high"))
    if math.isnan(value):
        return ""
    return f"{value:.2f} ± {(high - low) / 2:.2f}" if not math.isnan(low) else f"{value:.2f}"


def _beside_paper(table: pd.DataFrame) -> str:
    """Return for which estimators the sign of the difference to exact MAML is that of the paper."""
    found: dict[str, list[str]] = {"agrees": [], "does not agree": [], "shows no difference": []}
    compared = table[
        np.isfinite(table["value"].astype(float)) & table["estimator"].isin(paper.ACCURACY)
    ]
    # One seed says nothing of the next: its interval is only over tasks.
    compared = compared[compared["over"] == "seeds"]
    if compared.empty:
        return ""
    task = compared["task"].iloc[0]
    column = paper.TASKS.index(task) if task in paper.TASKS else 0
    for row in compared.to_dict("records"):
        theirs = paper.ACCURACY[row["estimator"]][column] - paper.ACCURACY[EXACT][column]
        shown = row["low"] > 0 or row["high"] < 0
        same = (row["value"] > 0) == (theirs > 0)
        verdict = "shows no difference" if not shown else "agrees" if same else "does not agree"
        text = f"{row['estimator']} ({row['value']:+.2f} points, paper {theirs:+.2f})"
        found[verdict].append(text)
    every = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items() if names)
    return f"{task}, difference to exact MAML beside the paper's on {paper.TASKS[column]}: {every}."
