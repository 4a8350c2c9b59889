"""Losses of agents in formation from their formulas, by numpy; analytic in the controls.

All take complex controls too, so that derivatives by complex steps have no error but rounding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from estimators import BilevelProblem, Params
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.tasks import TASKS
from harness.tasks.formation import Goal

Numbers = NDArray[Any]
Positions = Callable[[Numbers, Numbers], Numbers]
"""Of one agent [N, 2], from its start [4] and its controls [N, 2]."""


def formation_problem(
    task: str, model: str = "linear", depth: int = 1, index: int = 0, *, check: bool = False
) -> tuple[BilevelProblem, Params]:
    """Build a task in float64."""
    cell = Cell.of(estimator="maml", task=task, model=model, depth=depth)
    return bilevel_problem(cell, index, dtype=torch.float64, device="cpu", check=check)


def goals(task: str, index: int = 0) -> tuple[Any, Any]:
    """Return the targets of a task's inner and outer loss, as arrays."""
    sample = TASKS.create(task).sample(index)
    targets: list[Any] = [sample.support[1], sample.query[1]]
    inner, outer = (Goal(*(part.numpy() for part in each)) for each in targets)
    return inner, outer


def joined(params: Params) -> Numbers:
    """Return controls and logarithms of factors, flat."""
    return np.concatenate([params[n].numpy().reshape(-1) for n in ("controls", "log_weights")])


def loss(positions: Positions, goal: Any, controls: Numbers, logs: Any = (0, 0, 0)) -> Numbers:
    """The sum of the family, agent by agent."""
    agents = len(controls)
    paths = [
        positions(start, own.reshape(-1, 2))
        for start, own in zip(goal.start, controls, strict=True)
    ]
    places = [path - place for path, place in zip(paths, goal.offsets, strict=True)]
    centre = sum(places) / agents
    q, r, rho = goal.weights * np.exp(goal.learned * np.asarray(logs))
    total = np.zeros(())
    for path, reference, own, place in zip(paths, goal.reference, controls, places, strict=True):
        total = total + 0.5 * q * ((path - reference) ** 2).sum() + 0.5 * r * (own**2).sum()
        total = total + 0.5 * rho * ((place - centre) ** 2).sum()
    return total


def complex_step(function: Callable[[Numbers], Any], point: Numbers) -> Numbers:
    """Return the Jacobian of an analytic function of a vector; the point's axis is the last."""
    step = 1e-30
    columns = [np.imag(function(point + step * 1j * unit)) / step for unit in np.eye(point.size)]
    return np.stack(columns, axis=-1)
