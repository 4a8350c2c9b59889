"""Table 1: few-shot accuracy after meta-training with each estimator."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from harness.commands.reproduce import Scale
from reports.figures.accuracy import paired_differences, test_accuracy
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
        compared[[*names, "value", "low", "high", "verdict"]], "left", names, suffixes=("", "_less")
    )
    columns = [*names, "value", "low", "high", "over", "seeds", "tasks"]
    return Piece(
        name="table1",
        title="Few-shot accuracy on classes never seen, by estimator",
        charts=[
            *(partial(test_accuracy, table) for table in results),
            *(partial(paired_differences, table) for table in apart),
        ],
        table=_readable(both),
        data=both[[*columns, "value_less", "low_less", "high_less"]],
        notes=[],
        agreement=pd.DataFrame(_agreement(compared)),
    )


def _readable(both: pd.DataFrame) -> pd.DataFrame:
    names = {
        **{"task": "task", "estimator": "estimator"},
        **{"value": "accuracy (%)", "low": "from", "high": "to"},
        **{"value_less": f"less {EXACT}", "low_less": "less, from", "high_less": "less, to"},
        **{"verdict": "verdict", "seeds": "seeds"},
    }
    table = both[[*names]].rename(columns=names)
    for task, theirs in zip(paper.TASKS, zip(*paper.ACCURACY.values(), strict=True), strict=True):
        of_paper = dict(zip(paper.ACCURACY, theirs, strict=True))
        table[f"paper: {task.replace(':', ', ')}"] = table["estimator"].map(of_paper)
    return table.drop(columns="task") if table["task"].nunique() == 1 else table


def _agreement(compared: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the differences to exact MAML whose sign the paper has.

    One seed says nothing of the next: its interval is only over tasks.
    """
    compared = compared[compared["verdict"].isin(("better", "worse", "not shown"))]
    compared = compared[compared["estimator"].isin(paper.ACCURACY)]
    for row in compared[compared["over"] == "seeds"].to_dict("records"):
        column = paper.TASKS.index(row["task"]) if row["task"] in paper.TASKS else 0
        theirs = paper.ACCURACY[row["estimator"]][column] - paper.ACCURACY[EXACT][column]
        sign = "agrees" if (row["value"] > 0) == (theirs > 0) else "differs"
        yield {
            **{"task": row["task"], "estimator": row["estimator"]},
            f"less {EXACT} (points)": row["value"],
            f"paper, {paper.TASKS[column]}": theirs,
            "sign": row["verdict"] if row["verdict"] == "not shown" else sign,
        }
