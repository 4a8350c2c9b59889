"""Evaluation of an initialisation: adapt it to tasks by gradient descent, then test it."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call

from estimators import BilevelProblem, Params
from estimators.base.meta_batch import Batching, repeated, stacked
from estimators.base.module_loss import ModuleLoss
from harness.matrix.metrics import Samples

_AT_ONCE = 50  # tasks whose data and graphs are in memory together


def evaluate(problems: Sequence[BilevelProblem], theta: Params, batching: Batching) -> Samples:
    """Adapt to each task by all its inner steps, and return the outer loss on its queries.

    And where targets are classes, the accuracy.
    """
    losses: list[float] = []
    accuracies: list[float] = []
    size = _AT_ONCE if batching == "vmap" else 1
    for start in range(0, len(problems), size):
        group = problems[start : start + size]
        outputs, targets = _outputs(group, theta)
        criterion = cast("ModuleLoss", group[0].outer_loss).criterion
        with torch.no_grad():
            losses += [float(criterion(*pair)) for pair in zip(outputs, targets, strict=True)]
            if not targets.is_floating_point():
                right = outputs.argmax(-1) == targets
                accuracies += right.double().flatten(1).mean(1).tolist()
    return {"outer_loss": losses} | ({"accuracy": accuracies} if accuracies else {})


def _outputs(problems: Sequence[BilevelProblem], theta: Params) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of the queries after adaptation, a row for each task."""
    loss = cast("ModuleLoss", problems[0].outer_loss)
    if len(problems) == 1:
        *_, phi = problems[0].trajectory(theta)
        inputs, targets = loss.batch
        with torch.no_grad():
            outputs = functional_call(loss.module, loss.buffers | phi, (inputs,))
        return outputs[None], targets[None]
    *_, phi = stacked(problems).trajectory(repeated(theta, len(problems)))

    def one(params: Params, inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(loss.module, loss.buffers | params, (inputs,))
        return output

    batches = [cast("ModuleLoss", problem.outer_loss).batch for problem in problems]
    inputs, targets = (torch.stack(part) for part in zip(*batches, strict=True))
    with torch.no_grad():
        return torch.vmap(one)(phi, inputs), targets
