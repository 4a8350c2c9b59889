"""Evaluation of an initialisation: adapt it to tasks by gradient descent, then test it."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from estimators import BilevelProblem, Params
from estimators.base.meta_batch import Batching, StackedLoss, repeated, stacked
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
        outputs, targets, found = _outputs(problems[start : start + size], theta)
        losses += found.tolist()
        if not targets.is_floating_point():
            right = outputs.argmax(-1) == targets
            accuracies += right.double().flatten(1).mean(1).tolist()
    return {"outer_loss": losses} | ({"accuracy": accuracies} if accuracies else {})


def _outputs(problems: Sequence[BilevelProblem], theta: Params) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, targets and loss of the queries after adaptation, a row for each task."""
    if len(problems) == 1:
        loss = cast("ModuleLoss", problems[0].outer_loss)
        phi = problems[0].adapt(theta)
        with torch.no_grad():
            outputs, value = loss.outputs_and_loss(phi)
        return outputs[None], loss.batch[1][None], value[None]
    together = stacked(problems)
    losses = cast("StackedLoss", together.outer_loss)
    phi = together.adapt(repeated(theta, len(problems)))
    with torch.no_grad():
        outputs, values = losses.outputs_and_losses(phi)
    return outputs, losses.batch[1], values
