"""Figure 5: accuracy and loss along meta-training."""

from functools import partial

import pandas as pd

from harness.reproduction import Scale
from reports import figures
from reports.reproduction.piece import Found, Piece
from reports.tables.accuracy import curves, settings

_SHOWN = ("maml", "fomaml", "truncated(order=2)", "binom(order=2)", "imaml")


def piece(found: Found, scale: Scale) -> Piece | None:
    """Makes the figure from the evaluations of trainings, for each task.

    Args:
        found: what the store has.
        scale: at which it was trained.
    """
    rows = found.trained("fig5", scale)
    rows = rows[rows["estimator"].isin(_SHOWN)]
    if rows.empty:
        return None
    parts = settings(rows)
    every = {
        (metric, split): [curves(part, metric, split) for part in parts]
        for metric in ("accuracy", "outer_loss")
        for split in ("train", "validation")
    }
    data = pd.concat([table for tables in every.values() for table in tables], ignore_index=True)
    columns = ["task", "metric", "split", "estimator", "step", "value", "low", "high", "seeds"]
    seeds = int(data["seeds"].max())
    return Piece(
        name="fig5",
        title="Accuracy and loss along meta-training",
        charts=[
            partial(figures.learning_curves, table) for tables in every.values() for table in tables
        ],
        table=_last(data),
        data=data[columns],
        told=[
            *(_sentence(table) for table in every["accuracy", "validation"]),
            "The numbers of the paper's curves are not known here; in its Table 1 for miniImageNet "
            "with 1 shot come MAML, binom, truncated, FOMAML in this order. "
            f"Bands are 95 % intervals over {seeds} seeds.",
        ],
    )


def _last(data: pd.DataFrame) -> pd.DataFrame:
    """Returns where the curves end."""
    last = data[data["step"] == data.groupby("task")["step"].transform("max")]
    told = [
        f"{value:.3g} ({low:.3g} to {high:.3g})"
        for value, low, high in zip(last["value"], last["low"], last["high"], strict=True)
    ]
    what = last["split"] + " " + last["metric"].map({"accuracy": "accuracy (%)"}).fillna("loss")
    shown = last.assign(told=told, what=what)
    table = shown.pivot_table(
        index=["task", "step", "estimator"], columns="what", values="told", aggfunc="first"
    )
    return table.reset_index()


def _sentence(table: pd.DataFrame) -> str:
    last = table[table["step"] == table["step"].max()].sort_values("value", ascending=False)
    order = ", ".join(
        f"{name} {value:.1f} %"
        for name, value in zip(last["estimator"], last["value"], strict=True)
    )
    task, model, step = (last[name].iloc[0] for name in ("task", "model", "step"))
    return f"{task}, {model}, after {step} steps, on validation tasks: {order}."
