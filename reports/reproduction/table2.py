"""Table 2: the hybrid of truncation and expansion, L=1 over the last C=4 of K=5 steps."""

from functools import partial

import pandas as pd

from harness.commands.reproduce import Scale
from reports.figures.accuracy import test_accuracy
from reports.reproduction.piece import Measurements, Piece
from reports.tables.accuracy import EXACT, curves, differences, settings, test_results

_SHOWN = (
    *("maml", "fomaml", "truncated(order=2)", "binom(order=2)"),
    *("binom(order=3)", "hybrid(order=1, window=4)"),
)
_HYBRID = _SHOWN[-1]


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the table from the tests of trainings and the bias along them, for each task."""
    rows = measured.trained("table2", scale)
    rows = rows[rows["estimator"].isin(_SHOWN)]
    if _HYBRID not in set(rows["estimator"]):
        return None
    parts = [_part(part) for part in settings(rows)]
    data = pd.concat([table for table, _ in parts], ignore_index=True)
    names = {"less": f"less {EXACT}", "verdict": "verdict"}
    names |= {"bias_first": "bias at the start", "bias_last": "bias at the end"}
    shown = data[["task", "estimator", "value", "low", "high", *names]]
    shown = shown.rename(columns={"value": "accuracy (%)", "low": "from", "high": "to"} | names)
    return Piece(
        name="table2",
        title="The hybrid estimator, L=1 over the last C=4 of K=5 steps",
        charts=[partial(test_accuracy, results) for _, results in parts],
        table=shown.drop(columns="task") if shown["task"].nunique() == 1 else shown,
        data=data,
        notes=[
            "The numbers of the paper's Table 2 are not known here.",
        ],
    )


def _part(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return numbers of one task, and its test results."""
    results = test_results(rows, "accuracy")
    bias = curves(rows, "bias", "train").sort_values("step").groupby("estimator")["value"]
    less = differences(rows, "accuracy").set_index("estimator")
    columns = ["task", "model", "estimator", "value", "low", "high", "seeds"]
    names = results["estimator"]
    table = results[columns].assign(
        less=names.map(less["value"]),
        verdict=names.map(less["verdict"]).fillna(""),
        bias_first=names.map(bias.first()),
        bias_last=names.map(bias.last()),
    )
    return table, results
