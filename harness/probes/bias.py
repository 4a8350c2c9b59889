"""How far an estimate is from the exact meta-gradient, in float64."""

import math
from pathlib import Path

import torch

from estimators import Estimator, Params, create
from estimators.tree import axpy, dot, norm
from harness.cell import Cell
from harness.outcome import Diverged
from harness.problems import bilevel_problem

Samples = dict[str, list[float]]


def save_reference(group: Cell, path: Path) -> None:
    """Computes the exact float64 meta-gradients of a group's tasks and keeps them in a file.

    Args:
        group: a cell; its estimator does not matter.
        path: the file to write.

    Raises:
        Diverged: an exact meta-gradient is not finite.
    """
    exact = create("adjoint")
    gradients: list[Params] = []
    for index in range(group.tasks):
        problem, params = bilevel_problem(group, index, dtype=torch.float64, device=group.device)
        gradients.append(exact(problem, params).gradient)
        if not math.isfinite(norm(gradients[-1])):
            raise Diverged(f"the exact meta-gradient of task {index} is not finite")
    torch.save(gradients, path)


def measure_bias(cell: Cell, estimator: Estimator, reference: Path) -> Samples:
    """Scores an estimator against the exact meta-gradient of each of a cell's tasks.

    error = ||estimate - exact|| / ||exact||, and 1 - cosine of the angle between them.

    Args:
        cell: the cell.
        estimator: its estimator.
        reference: file written by `save_reference`.

    Returns:
        Samples of "bias", "cosine_distance" and, where the estimator follows another objective
        than MAML's, "own_bias"; one a task.

    Raises:
        Diverged: an estimate is not finite.
    """
    gradients: list[Params] = torch.load(reference, map_location=cell.device, weights_only=True)
    samples: Samples = {"bias": [], "cosine_distance": []}
    for index, exact in enumerate(gradients):
        problem, params = bilevel_problem(cell, index, dtype=torch.float64, device=cell.device)
        estimate = estimator(problem, params).gradient
        if not math.isfinite(norm(estimate)):
            raise Diverged(f"the estimate of task {index} is not finite")
        samples["bias"].append(relative_error(estimate, exact))
        samples["cosine_distance"].append(cosine_distance(estimate, exact))
        own = estimator.own_exact_gradient(problem, params)
        if own is not None:
            error = relative_error(estimate, own)
            if not math.isfinite(error):
                raise Diverged(
                    f"the exact gradient of its own objective, task {index}, is not finite"
                )
            samples.setdefault("own_bias", []).append(error)
    return samples


def relative_error(estimate: Params, exact: Params) -> float:
    """Returns ||estimate - exact|| / ||exact||; 0 when both are zero.

    Args:
        estimate: the estimate.
        exact: what it should be.
    """
    error, length = norm(axpy(-1.0, exact, estimate)), norm(exact)
    if error == 0:
        return 0.0
    return error / length if length else math.inf


def cosine_distance(estimate: Params, exact: Params) -> float:
    """Returns 1 - cos of the angle between two gradients, without cancellation.

    For unit vectors, 1 - cos = ||a - b||^2 / 2.

    Args:
        estimate: the estimate.
        exact: what it should be.
    """
    lengths = norm(estimate) * norm(exact)
    if lengths == 0:
        return 0.0 if norm(estimate) == norm(exact) else 1.0
    apart = axpy(
        -1.0,
        {name: value / norm(exact) for name, value in exact.items()},
        {name: value / norm(estimate) for name, value in estimate.items()},
    )
    return 0.5 * dot(apart, apart)
