"""Figure 3b: the error against order L and along meta-training."""

from functools import partial

import pandas as pd

from harness.commands.reproduce import Scale
from reports.figures.bias import bias_against_order, bias_along_training
from reports.reproduction.piece import Measurements, Piece, where_lower
from reports.tables.cells import ORDERED, by_order, family_and_order, samples

_DEPTH = 5
_COMPARED = (
    *(("binom", "truncated"), ("binom", "binom-released"), ("binom", "fomaml")),
    ("binom-chebyshev", "truncated"),
)


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
            *(partial(bias_against_order, part) for _, part in cells.groupby("trained")),
            partial(bias_along_training, cells[~cells["estimator"].map(_left_out)]),
        ],
        table=table,
        data=data.rename(columns={"bias": "mean"}),
        notes=[],
        agreement=_agreement(data),
    )


def _left_out(estimator: str) -> bool:
    """Return whether it would make a thicket of the lines along training."""
    family, order = family_and_order(estimator)
    return family == "binom-released" or order == 3


def _agreement(data: pd.DataFrame) -> pd.DataFrame:
    """Return at which orders lines are below others, at each state of training."""
    rows = []
    for (trained, curvature), part in data.groupby(["trained", "curvature"]):
        lines = part.pivot_table(index="order", columns="line", values="median")
        if "binom" in lines and 0 in lines.index:
            lines = lines.assign(fomaml=lines["binom"].to_dict()[0])
        for one, other in _COMPARED:
            if compared := where_lower(lines, one, other, _DEPTH):
                rows.append({"steps": trained, "alpha lambda_max": curvature} | compared)
    return pd.DataFrame(rows)
