"""Meta-training as one would write it down: unrolled MAML, a task after the other, Adam outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from harness.matrix.problems import TASKS_A_SEED
from harness.store.trainings import trainings
from harness.tasks import TASKS

Weights = list[Tensor]
Forward = Callable[[Weights, Tensor], Tensor]


def mlp(weights: Weights, inputs: Tensor) -> Tensor:
    """An MLP whose weights and biases come in turns."""
    outputs = inputs.flatten(1)
    for number in range(0, len(weights), 2):
        outputs = outputs @ weights[number].T + weights[number + 1]
        if number + 2 < len(weights):
            outputs = outputs.relu()
    return outputs


def linear(weights: Weights, inputs: Tensor) -> Tensor:
    return inputs.flatten(1) @ weights[0].T


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return (mse_loss if targets.is_floating_point() else cross_entropy)(outputs, targets)


def adapted(
    forward: Forward, weights: Weights, support: tuple[Tensor, Tensor], depth: int, alpha: float
) -> Weights:
    inputs, targets = support
    for _ in range(depth):
        loss = loss_of(forward(weights, inputs), targets)
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [one - alpha * slope for one, slope in zip(weights, slopes, strict=True)]
    return weights


def trained(
    forward: Forward,
    weights: Weights,
    *,
    task: str,
    steps: int,
    depth: int = 5,
    alpha: float = 0.01,
    rate: float = 1e-3,
    seed: int = 0,
) -> Weights:
    """Train with four tasks a step, in the weights' dtype."""
    weights = [one.detach().clone().requires_grad_() for one in weights]
    optimizer = torch.optim.Adam(weights, lr=rate)
    family = TASKS.create(task)
    for step in range(steps):
        optimizer.zero_grad()
        for number in range(4):
            drawn = family.sample(seed * TASKS_A_SEED + 4 * step + number)
            support, query = (
                (x.to(weights[0].dtype), y.to(weights[0].dtype) if y.is_floating_point() else y)
                for x, y in (drawn.support, drawn.query)
            )
            phi = adapted(forward, weights, support, depth, alpha)
            torch.autograd.backward(loss_of(forward(phi, query[0]), query[1]) / 4)
        optimizer.step()
    return [one.detach() for one in weights]


def numbers(store: Path) -> dict[Any, list[float]]:
    """Return the samples of a store's trainings, except those of time, by step and metric."""
    table = trainings(store)[0]
    table = table[table["metric"] != "step_time"]
    keys = zip(table["step"], table["split"], table["metric"], strict=True)
    return dict(zip(keys, table["samples"], strict=True))
