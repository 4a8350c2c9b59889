"""Figure 2: the theory's bounds on the error over order L, as multiples of FOMAML's."""

from functools import partial

import pandas as pd

from estimators.bounds import (
    Assumption,
    Bounded,
    Convex,
    StronglyConvex,
    binom_bound,
    fomaml_bound,
    truncated_bound,
)
from harness.commands.reproduce import Scale
from reports.figures.reproduced import bounds_against_order
from reports.reproduction.piece import Measurements, Piece, where_lower

_DEPTH = 5
_CURVATURES = (0.1, 0.5, 0.9)  # x = alpha H
_CONDITION = 10.0  # H / h
_ASSUMED = {
    "smooth": "Theorem 3.6, ‖H_k‖ ≤ H",
    "convex": "Theorem 3.8, 0 ≤ H_k ≤ H",
    "strongly convex": f"H/{_CONDITION:g} ≤ H_k ≤ H",
}


def piece(measured: Measurements, scale: Scale) -> Piece:
    """Compute the bounds; nothing is measured."""
    del measured, scale
    data = _bounds()
    wide = data.pivot_table(
        index=["assumption", "x", "estimator"], columns="order", values="bound", sort=False
    )
    wide.columns = pd.Index([f"L={order}" for order in wide.columns])
    return Piece(
        name="fig2",
        title=f"Bounds of theory on the error, over that of FOMAML, K={_DEPTH}",
        charts=[
            partial(bounds_against_order, data[data["assumption"] == name], _ASSUMED[name])
            for name in _ASSUMED
        ],
        table=wide.reset_index(),
        data=data,
        notes=[
            "The paper's point, that binom's bound falls faster with L than that of truncation, "
            "holds where curvature is small; its own curvature in the figure is not known here.",
        ],
        agreement=_agreement(data),
    )


def _assumptions(x: float) -> dict[str, Assumption]:
    return {
        "smooth": Bounded(x),
        "convex": Convex(x),
        "strongly convex": StronglyConvex(x, x / _CONDITION),
    }


def _bounds() -> pd.DataFrame:
    rows = []
    for x in _CURVATURES:
        for name, assumed in _assumptions(x).items():
            whole = fomaml_bound(assumed, step_size=1.0, steps=_DEPTH)
            for estimator, bound in (("truncated", truncated_bound), ("binom", binom_bound)):
                rows += [
                    {
                        **{"assumption": name, "x": x, "estimator": estimator, "order": order},
                        "bound": bound(assumed, step_size=1.0, steps=_DEPTH, order=order) / whole,
                    }
                    for order in range(_DEPTH + 1)
                ]
    table = pd.DataFrame(rows)
    places = {name: place for place, name in enumerate(_ASSUMED)}
    return table.sort_values("assumption", key=lambda names: names.map(places), kind="stable")


def _agreement(data: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, x), part in data.groupby(["assumption", "x"], sort=False):
        wide = part.pivot_table(index="order", columns="estimator", values="bound")
        compared = where_lower(wide, "binom", "truncated", _DEPTH)
        rows.append({"assumption": name, "alpha H": x} | compared)
    return pd.DataFrame(rows)
