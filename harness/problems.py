"""From a cell to the bilevel problems that it stands for."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimators import BilevelProblem, Params
from harness.cell import Cell
from harness.models import MODELS
from harness.tasks import TASKS, Batch, TaskFamily


@dataclass(frozen=True)
class Loss:
    """Loss of a module on one batch, as a function of its parameters."""

    family: TaskFamily
    module: nn.Module
    batch: Batch

    def __call__(self, params: Params) -> Tensor:
        """Returns the scalar loss at `params`."""
        inputs, targets = self.batch
        return self.family.loss(functional_call(self.module, params, (inputs,)), targets)


def bilevel_problem(
    cell: Cell, index: int, *, dtype: torch.dtype, device: str
) -> tuple[BilevelProblem, Params]:
    """Builds one of a cell's tasks with its initial parameters.

    Args:
        cell: names task, model, depth, step size and seed.
        index: which of the cell's tasks, from 0.
        dtype: of parameters and inputs; their values are the same up to rounding.
        device: where they live.

    Returns:
        The problem and theta.
    """
    family = TASKS.create(cell.task)
    module = MODELS.create(cell.model).build(family, cell.seed).to(device=device, dtype=dtype)
    task = family.sample(seed=cell.seed * _TASKS_A_SEED + index)

    def loss(batch: Batch) -> Loss:
        inputs, targets = (tensor.to(device) for tensor in batch)
        targets = targets.to(dtype) if targets.is_floating_point() else targets
        return Loss(family, module, (inputs.to(dtype), targets))

    params = {name: value.detach() for name, value in module.named_parameters()}
    problem = BilevelProblem(loss(task.support), loss(task.query), cell.step_size, cell.depth)
    return problem, params


_TASKS_A_SEED = 1_000_000  # so that no two seeds share a task
