"""Figure 4: time and memory of the estimators over order L, on images of miniImageNet's size."""

from functools import partial

import pandas as pd

from harness.commands.reproduce import Scale
from reports.figures.cost import cost_against_order
from reports.reproduction.piece import Measurements, Piece
from reports.tables.cells import by_order

_COSTS = ("time_ratio", "peak_memory", "utilisation")


def piece(measured: Measurements, scale: Scale) -> Piece | None:
    """Make the figure from timings and memory, for each task and device."""
    cells = measured.cells("fig4", scale)
    if cells.empty:
        return None
    parts = [part for _, part in cells.groupby(["task", "device"], sort=False)]
    tables = [_beside_exact(part) for part in parts]
    # Utilisation is only of GPUs, and of those whose driver reports it.
    costs = [cost for cost in _COSTS if cells[cost].notna().any()]
    axes = ("task", "device", "estimator", "order")
    others = ("hvps", "serial_depth", "time_of_maml", "memory_of_maml")
    data = pd.concat(tables, ignore_index=True)[[*axes, "time", *costs, *others]]
    return Piece(
        name="fig4",
        title="Time and memory on 84x84 images, Conv4-32, K=5",
        charts=[
            partial(cost_against_order, _lines(part), cost)
            for part in parts
            for cost in costs
            if part[cost].notna().any()
        ],
        table=_readable(data),
        data=data,
        notes=[
            "The paper has its times from a GPU that takes the products of a level at once, and "
            "leaves out the gradient that each product computes anew; here both are counted. "
            + _on_gpu(cells),
        ],
    )


def _on_gpu(cells: pd.DataFrame) -> str:
    if (cells["device"] == "cpu").all():
        return (
            "On a processor products follow one another. GPU times and utilisation: not measured."
        )
    if cells["utilisation"].isna().all():
        return "GPU utilisation (its Figure 4c) is not measured: the driver does not report it."
    return "GPU utilisation is its Figure 4c, as the driver reports it."


def _lines(part: pd.DataFrame) -> pd.DataFrame:
    """Return the lines over L; iMAML's order is that of its conjugate-gradient steps."""
    steps = part["estimator"].str.extract(r"^imaml\(cg_steps=(\d+)\)$")[0].astype("Int64")
    implicit = part.assign(order=steps, line="imaml")[steps.notna().to_numpy()]
    adjoint = part[part["estimator"] == "adjoint"]
    adjoint = adjoint.assign(order=adjoint["depth"], line="adjoint")
    return pd.concat([by_order(part), implicit, adjoint])


def _beside_exact(part: pd.DataFrame) -> pd.DataFrame:
    exact = part[part["estimator"] == "maml"]
    time, memory = exact[["time", "peak_memory"]].mean()  # of one row, or of none
    return part.assign(
        time_of_maml=part["time"] / time, memory_of_maml=part["peak_memory"] / memory
    )


def _readable(data: pd.DataFrame) -> pd.DataFrame:
    names = {
        **{"task": "task", "device": "device", "estimator": "estimator", "time": "time (ms)"},
        **{"time_ratio": "inner gradients", "time_of_maml": "time / maml"},
        **{"utilisation": "GPU utilisation (%)"},
        **{"peak_memory": "memory (MiB)", "memory_of_maml": "memory / maml"},
        **{"hvps": "HVPs", "serial_depth": "serial"},
    }
    table = data[[name for name in names if name in data]].rename(columns=names)
    counts = {"HVPs": "Int64", "serial": "Int64"}
    same = [name for name in ("task", "device") if table[name].nunique() == 1]
    return table.astype(counts).drop(columns=same)
