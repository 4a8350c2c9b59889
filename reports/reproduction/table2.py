"""Table 2: the hybrid of truncation and expansion, L=1 over the last C=4 of K=5 steps."""

from functools import partial

import pandas as pd

from harness.commands.reproduce import Scale
from reports import figures
from reports.reproduction.piece import Measurements, Piece
from reports.tables.accuracy import curves, differences, settings, test_results

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
    data = pd.concat([table for table, _, _ in parts], ignore_index=True)
    names = {"bias_first": "bias at the start", "bias_last": "bias at the end"}
    shown = data[["task", "estimator", "value", "low", "high", *names]]
    shown = shown.rename(columns={"value": "accuracy (%)", "low": "from", "high": "to"} | names)
    return Piece(
        name="table2",
        title="The hybrid estimator, L=1 over the last C=4 of K=5 steps",
        charts=[partial(figures.test_accuracy, results) for _, results, _ in parts],
        table=shown.drop(columns="task") if shown["task"].nunique() == 1 else shown,
        data=data,
        notes=[
            *(f"{sentence}." for _, _, sentence in parts if sentence),
            "The numbers of the paper's Table 2 are not known here.",
        ],
    )


def _part(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return numbers of one task, its test results, and how the hybrid differs from exact MAML."""
    results = test_results(rows, "accuracy")
    bias = curves(rows, "bias", "train").sort_values("step").groupby("estimator")["value"]
    columns = ["task", "model", "estimator", "value", "low", "high", "seeds"]
    table = results[columns].assign(
        bias_first=results["estimator"].map(bias.first()),
        bias_last=results["estimator"].map(bias.last()),
    )
    apart = differences(rows, "accuracy")
    sentence = apart.loc[apart["estimator"] == _HYBRID, "text"]
    return table, results, str(sentence.iloc[0]) if len(sentence) else ""
