"""Shared ends of the estimators that propagate the outer gradient back along the inner loop."""

import torch

from estimators.hvp import hvp
from estimators.problem import BilevelProblem, evaluate, value_and_gradient
from estimators.tree import Params, axpy, leaves


def through_graph(
    problem: BilevelProblem, start: Params, steps: int
) -> tuple[torch.Tensor, Params, Params]:
    """Back-propagates through `steps` unrolled inner steps; memory grows with them.

    Args:
        problem: the bilevel problem.
        start: the parameters before those steps.
        steps: how many.

    Returns:
        The outer loss, its gradient with respect to `start`, and the adapted parameters.
    """
    start = leaves(start)
    adapted = problem.unroll(start, steps)
    outer_loss = evaluate(problem.outer_loss, adapted)
    grads = torch.autograd.grad(outer_loss, list(start.values()), materialize_grads=True)
    detached = {name: value.detach() for name, value in adapted.items()}
    return outer_loss.detach(), dict(zip(start, grads, strict=True)), detached


def through_iterates(problem: BilevelProblem, iterates: list[Params], vector: Params) -> Params:
    """Applies A_k = I - alpha H_k for each iterate, the last one first, one graph at a time.

    Args:
        problem: the bilevel problem.
        iterates: phi_k in the order of the inner loop.
        vector: the outer gradient.

    Returns:
        A_first ... A_last vector.
    """
    for phi in reversed(iterates):
        vector = axpy(-problem.step_size, hvp(problem.inner_loss, phi, vector), vector)
    return vector


def adapt(problem: BilevelProblem, params: Params) -> tuple[list[Params], torch.Tensor, Params]:
    """Runs the inner loop and takes the outer gradient at its end.

    Args:
        problem: the bilevel problem.
        params: theta.

    Returns:
        The iterates phi_0..phi_K, the outer loss at phi_K and its gradient g there.
    """
    iterates = list(problem.trajectory(params))
    outer_loss, g = value_and_gradient(problem.outer_loss, iterates[-1])
    return [{n: v.detach() for n, v in phi.items()} for phi in iterates], outer_loss, g
