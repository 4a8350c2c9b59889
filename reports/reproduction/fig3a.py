"""Figure 3a: the error of the estimates from one mini-batch of tasks to the next."""

from collections.abc import Iterator
from functools import partial
from math import isfinite, nan
from typing import Any

import pandas as pd

from harness.commands.reproduce import Scale
from reports.figures.reproduced import bias_by_mini_batch
from reports.reproduction import paper
from reports.reproduction.piece import Measurements, Piece
from reports.tables.cells import samples

_MINI_BATCH = 4
_SHOWN = (
    *("fomaml", "truncated(order=1)", "truncated(order=4)"),
    *("binom(order=1)", "binom(order=2)", "binom(order=4)"),
)
_NEAR = 3.0  # a factor within which an error is called the same


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the figure from errors at the initial parameters, and where curvature is least."""
    cells = measured.cells("fig3a", scale)
    if cells.empty:
        return None
    cells = cells[(cells["depth"] == cells["depth"].min()) & cells["estimator"].isin(_SHOWN)]
    if cells.empty:
        return None
    errors = samples(measured.snapshot.long, cells, "bias")
    errors = errors.assign(mini_batch=errors["sample"] // _MINI_BATCH + 1)
    names = ["trained", "estimator", "family", "order", "mini_batch"]
    data = errors.groupby(names, sort=False, dropna=False)["value"].mean().reset_index()
    data = data.rename(columns={"value": "bias"})
    medians = errors.groupby(["estimator", "trained"])["value"].median().unstack()
    medians = medians.reindex([name for name in _SHOWN if name in medians.index])
    curvature = cells.groupby("trained")["curvature"].first()
    table = medians.rename(columns="median, {} steps".format)
    table["paper, about"] = pd.Series(paper.MEDIAN_ERRORS)
    # The paper's curvature is not known; the least that there is may be nearest to it.
    places = dict.fromkeys([int(curvature.index.min()), int(str(curvature.idxmin()))])
    return Piece(
        name="fig3a",
        title="Error over mini-batches of tasks, sinusoid, K=5",
        charts=[
            partial(
                bias_by_mini_batch,
                data[data["trained"] == place],
                cells[cells["trained"] == place],
            )
            for place in places
        ],
        table=table.reset_index(),
        data=data.drop(columns="family"),
        notes=[],
        agreement=pd.DataFrame(
            row
            for place in places
            for row in _agreement(place, medians[place].dropna().to_dict(), curvature.loc[place])
        ),
    )


def _agreement(
    trained: int, medians: dict[Any, float], curvature: float
) -> Iterator[dict[str, Any]]:
    """Yield the medians whose size the paper has, and the ratio of two that are alike there."""
    ratio = medians.get("binom(order=1)", nan) / medians.get("truncated(order=4)", nan)
    compared = {name: (medians.get(name, nan), its) for name, its in paper.MEDIAN_ERRORS.items()}
    compared["binom(order=1) / truncated(order=4)"] = ratio, 1.0
    for name, (ours, theirs) in compared.items():
        if isfinite(ours):
            verdict = "agrees" if 1 / _NEAR <= ours / theirs <= _NEAR else "differs"
            yield {
                **{"steps": trained, "alpha lambda_max": curvature, "median error of": name},
                **{"here": ours, "paper, about": theirs, "verdict": verdict},
            }
