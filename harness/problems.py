"""From a cell to the bilevel problems that it stands for, and to its estimator."""

from collections.abc import Iterable

import torch

from estimators import BilevelProblem, Estimator, Params, create, module_problem, trainable
from harness.cell import Cell
from harness.models import MODELS
from harness.tasks import TASKS, Batch

_TASKS_A_SEED = 1_000_000  # so that no two seeds share a task
_FIRST_PROBE = 900_000  # so that no estimator is scored on what it was calibrated on


def bilevel_problems(
    cell: Cell, indices: Iterable[int], *, dtype: torch.dtype, device: str
) -> tuple[list[BilevelProblem], Params]:
    """Builds some of a cell's tasks, of one module, with its initial parameters.

    Args:
        cell: names task, model, depth, step size and seed.
        indices: which of the cell's tasks, counted from 0.
        dtype: of parameters and inputs; their values are the same up to rounding.
        device: where they live.

    Returns:
        The problems and theta.
    """
    family = TASKS.create(cell.task)
    module = MODELS.create(cell.model).build(family, cell.seed).to(device=device, dtype=dtype)

    def converted(batch: Batch) -> Batch:
        inputs, targets = (tensor.to(device) for tensor in batch)
        return inputs.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets

    problems = []
    for index in indices:
        task = family.sample(seed=cell.seed * _TASKS_A_SEED + index)
        problems.append(
            module_problem(
                module,
                family.loss,
                converted(task.support),
                converted(task.query),
                step_size=cell.step_size,
                steps=cell.depth,
            )
        )
    return problems, trainable(module)


def bilevel_problem(
    cell: Cell, index: int, *, dtype: torch.dtype, device: str
) -> tuple[BilevelProblem, Params]:
    """Builds one of a cell's tasks with its initial parameters; see `bilevel_problems`."""
    (problem,), params = bilevel_problems(cell, [index], dtype=dtype, device=device)
    return problem, params


def prepared_estimator(cell: Cell) -> Estimator:
    """Creates a cell's estimator, calibrated where it wants to be.

    It is calibrated in float64 at the cell's initial parameters, on tasks other than those that
    it is scored on.

    Args:
        cell: the cell.
    """
    estimator = create(cell.estimator)
    if estimator.due:
        probes = range(_FIRST_PROBE, _FIRST_PROBE + estimator.probes)
        estimator.calibrate(
            *bilevel_problems(cell, probes, dtype=torch.float64, device=cell.device)
        )
    return estimator
