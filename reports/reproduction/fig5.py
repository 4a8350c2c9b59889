"""Figure 5: accuracy and loss along meta-training."""

from functools import partial

import pandas as pd

from harness.commands.reproduce import Scale
from reports.figures.accuracy import learning_curves
from reports.reproduction.piece import Measurements, Piece
from reports.tables.accuracy import curves, settings

_SHOWN = ("maml", "fomaml", "truncated(order=2)", "binom(order=2)")


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the figure from the evaluations of trainings, for each task."""
    rows = measured.trained("fig5", scale)
    implicit = rows["estimator"].str.startswith("imaml")  # of any number of its steps
    rows = rows[rows["estimator"].isin(_SHOWN) | implicit]
    if not ((rows["metric"] == "accuracy") & (rows["split"] == "validation")).any():
        return None
    parts = settings(rows)
    every = {
        (metric, split): [curves(part, metric, split) for part in parts]
        for metric in ("accuracy", "outer_loss")
        for split in ("train", "validation")
    }
    data = pd.concat([table for tables in every.values() for table in tables], ignore_index=True)
    columns = ["task", "metric", "split", "estimator", "step", "value", "low", "high", "seeds"]
    return Piece(
        name="fig5",
        title="Accuracy and loss along meta-training",
        charts=[partial(learning_curves, table) for tables in every.values() for table in tables],
        table=_last(data),
        data=data[columns],
        notes=[
            "The numbers of the paper's curves are not known here; in its Table 1 for miniImageNet "
            "with 1 shot come MAML, binom, truncated, FOMAML in this order.",
        ],
    )


def _last(data: pd.DataFrame) -> pd.DataFrame:
    """Return where the curves end."""
    last = data[data["step"] == data.groupby("task")["step"].transform("max")]
    parts = [
        f"{value:.3g} ({low:.3g} to {high:.3g})"
        for value, low, high in zip(last["value"], last["low"], last["high"], strict=True)
    ]
    what = last["split"] + " " + last["metric"].map({"accuracy": "accuracy (%)"}).fillna("loss")
    shown = last.assign(text=parts, what=what)
    table = shown.pivot_table(
        index=["task", "step", "estimator", "seeds"], columns="what", values="text", aggfunc="first"
    )
    return table.reset_index()
