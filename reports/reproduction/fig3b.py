"""Figure 3b: the error against order L; and what becomes of it along meta-training."""

from functools import partial

import pandas as pd

from harness.reproduction import Scale
from reports import figures
from reports.reproduction.piece import Found, Piece
from reports.tables.cells import by_order, family_and_order
from reports.tables.samples import samples

_LINES = ("truncated", "binom", "binom-released", "binom-calibrated")


def piece(found: Found, scale: Scale) -> Piece | None:
    """Makes the figure from errors at the initial parameters and after exact meta-training.

    Args:
        found: what the store has.
        scale: at which it was measured.
    """
    every = found.cells("fig3b", scale)
    if every.empty:
        return None
    cells = every[every["depth"] == every["depth"].min()]
    errors = samples(found.snapshot.long, cells, "bias")
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
        told=[
            sentence
            for trained, part in data.groupby("trained")
            for sentence in _sentences(int(str(trained)), part)
        ],
    )


def _left_out(estimator: str) -> bool:
    """Tells what would make a thicket of the lines along training."""
    family, order = family_and_order(estimator)
    return family == "binom-released" or order == 3


def _sentences(trained: int, rows: pd.DataFrame) -> list[str]:
    error = {
        (line, int(order)): value
        for line, order, value in zip(rows["line"], rows["order"], rows["median"], strict=True)
    }
    inner = sorted({order for line, order in error if line == "binom"})[1:-1]
    when = f"After {trained} steps" if trained else "At the start"
    told = [f"{when}, alpha lambda_max {rows['curvature'].iloc[0]:.2g}:"]
    for other in ("truncated", "binom-released"):
        better = [order for order in inner if error["binom", order] < error[other, order]]
        told.append(f"binom (Eq. 8) is better than {other} {_at(better, inner)};")
    worse = [order for order in inner if error["binom", order] > error["binom", 0]]
    if worse:
        told.append(f"it is worse than FOMAML {_at(worse, inner)};")
    least = min(error["binom-calibrated", order] / error["truncated", order] for order in inner)
    most = max(error["binom-calibrated", order] / error["truncated", order] for order in inner)
    told.append(
        f"the calibrated cascade has {least:.2g} to {most:.2g} times the error of truncated."
    )
    return [" ".join(told)]


def _at(orders: list[int], every: list[int]) -> str:
    if not orders:
        return "at no order"
    if orders == every:
        return "at every order"
    return f"at L = {', '.join(map(str, orders))} alone"
