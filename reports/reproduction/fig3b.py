"""Figure 3b: the error against order Land along meta-training."""

from functools import partial

import pandas as pd

from harness.commands.reproduce import Scale
from reports import figures
from reports.reproduction.piece import Measurements, Piece
from reports.tables.cells import ORDERED, by_order, family_and_order, samples

_DEPTH = 5


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the figure from errors at the initial parameters and after exact meta-training."""
    every = measured.cells("fig3b", scale)
    if every.empty:
        return None
    cells = every[every["depth"] == _DEPTH]
    if not cells["family"].isin(ORDERED).any():
        return None
    errors = samples(measured.snapshot.long, cells, "bias")
    medians = errors.groupby(["estimator", "trained"])["value"].median()
    lines = pd.concat(
        [by_order(part) for _, part in cells.groupby("trained", sort=True)], ignore_index=True
    )
    keys = zip(lines["estimator"], lines["trained"], strict=True)
    lines = lines.assign(median=[medians[key] for key in keys])
    data = lines[["trained", "curvature", "line", "order", "estimator", "median", "bias"]]
    data = data.sort_values(["trained", "line", "order"], ignore_index=True)
    wide = data.pivot_table(
        index=["trained", "curvature", "line"], columns="order", values="median", sort=False
    )
    wide.columns = pd.Index([f"L={order}" for order in wide.columns])
    table = wide.reset_index().rename(
        columns={"trained": "steps", "curvature": "alpha lambda_max", "line": "median error of"}
    )
    return Piece(
        name="fig3b",
        title="Error against order L, sinusoid, K=5, at the start and along exact meta-training",
        charts=[
            *(partial(figures.bias_against_order, part) for _, part in cells.groupby("trained")),
            partial(figures.bias_along_training, cells[~cells["estimator"].map(_left_out)]),
        ],
        table=table,
        data=data.rename(columns={"bias": "mean"}),
        notes=[_sentence(int(str(trained)), part) for trained, part in data.groupby("trained")],
    )


def _left_out(estimator: str) -> bool:
    """Return whether it would make a thicket of the lines along training."""
    family, order = family_and_order(estimator)
    return family == "binom-released" or order == 3


def _sentence(trained: int, rows: pd.DataFrame) -> str:
    when = f"After {trained} steps" if trained else "At the start"
    errors = rows.pivot_table(index="order", columns="line", values="median")
    parts = [
        *(_compared(errors, "binom", other) for other in ("truncated", "binom-released")),
        _compared(errors, "binom", "fomaml"),
        _compared(errors, "binom-calibrated", "truncated"),
    ]
    known = "; ".join(filter(None, parts)) or "too little was measured to compare"
    return f"{when}, alpha lambda_max {rows['curvature'].iloc[0]:.2g}: {known}."


def _compared(errors: pd.DataFrame, one: str, other: str) -> str:
    """Return at which orders between 0 and K a line is below another; "" where none has both."""
    if other == "fomaml" and one in errors and 0 in errors.index:
        errors = errors.assign(fomaml=errors[one].to_dict()[0])
    if not {one, other} <= {*errors}:
        return ""
    inner = errors.loc[1 : _DEPTH - 1, [one, other]].dropna()
    if inner.empty:
        return ""
    ratios = inner[one] / inner[other]
    better = [str(order) for order in ratios.index[ratios < 1]]
    where = f"at L = {', '.join(better)} alone" if better else "at no order"
    if len(better) == len(ratios):
        measured = ", ".join(map(str, ratios.index))
        where = "at every order" if len(ratios) == _DEPTH - 1 else f"at every of L = {measured}"
    return (
        f"{one} is better than {other} {where} "
        f"({ratios.min():.2g} to {ratios.max():.2g} times its error)"
    )
