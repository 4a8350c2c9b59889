"""Evaluation of an initialisation: adapt it to tasks by gradient descent, then test it."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

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
        if _are_classes(targets, outputs):
            right = outputs.argmax(-1) == targets
            accuracies += right.double().flatten(1).mean(1).tolist()
    return {"outer_loss": losses} | ({"accuracy": accuracies} if accuracies else {})


def _are_classes(targets: Any, outputs: Any) -> bool:
    """Return whether targets are whole numbers, for each of which there is a row of outputs."""
    tensors = isinstance(targets, Tensor) and isinstance(outputs, Tensor)
    return tensors and not targets.is_floating_point() and outputs.shape[:-1] == targets.shape


def _outputs(problems: Sequence[BilevelProblem], theta: Params) -> tuple[Any, Any, Tensor]:
    """Return outputs, targets and loss of the queries after adaptation, a row for each task."""
    if len(problems) == 1:
        loss = problems[0].outer_loss
        phi = problems[0].end(theta)
        if not isinstance(loss, ModuleLoss):
            return None, None, loss(phi).detach()[None]
        with torch.no_grad():
            outputs, value = loss.outputs_and_loss(phi)
        targets = loss.batch[1]
        outputs, targets, value = (
            tree_map(lambda part: part[None] if isinstance(part, Tensor) else part, each)
            for each in (outputs, targets, value)
        )
        return outputs, targets, value
    together = stacked(problems)
    losses = cast("StackedLoss", together.outer_loss)
    phi = together.adapt(repeated(theta, len(problems)))
    with torch.no_grad():
        outputs, values = losses.outputs_and_losses(phi)
    return outputs, losses.batch[1], values
