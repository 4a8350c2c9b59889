"""Figure 3a: the error of the estimates from one mini-batch of tasks to the next."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from harness.commands.reproduce import Scale
from reports import figures
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
    """Make the figure from errors at the initial parameters, and name those after training."""
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
                figures.bias_by_mini_batch,
                data[data["trained"] == place],
                cells[cells["trained"] == place],
            )
            for place in places
        ],
        table=table.reset_index(),
        data=data.drop(columns="family"),
        notes=[
            _sentence(place, medians[place].dropna().to_dict(), curvature.loc[place])
            for place in places
        ],
    )


def _sentence(trained: int, median: Mapping[Any, float], curvature: float) -> str:
    when = f"After {trained} steps of exact meta-training" if trained else "At the start"
    parts = [f"{when}, alpha lambda_max {curvature:.2g}:"]
    for name, theirs in paper.MEDIAN_ERRORS.items():
        if name not in median:
            continue
        ours = median[name]
        within = max(ours / theirs, theirs / ours)
        verdict = "agrees" if within <= _NEAR else f"differs by a factor of {within:.2g}"
        parts.append(f"{name} has median {ours:.2g}, in the paper about {theirs:g}: {verdict};")
    if {"binom(order=1)", "truncated(order=4)"} <= median.keys():
        ratio = median["binom(order=1)"] / median["truncated(order=4)"]
        same = "agrees" if 1 / _NEAR <= ratio <= _NEAR else "does not agree"
        parts.append(
            "binom(order=1), in the paper about as good as truncated(order=4), has "
            f"{ratio:.2g} times its error: {same};"
        )
    return " ".join(parts)[:-1] + "."
