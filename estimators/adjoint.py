"""Exact meta-gradient, one Hessian-vector product at a time."""

from dataclasses import dataclass

from estimators.backpropagation import adapt, through_iterates
from estimators.estimator import Estimator, MetaGradient
from estimators.problem import BilevelProblem
from estimators.registry import register
from estimators.tree import Params


@register("adjoint")
@dataclass(frozen=True)
class Adjoint(Estimator):
    """A_0 A_1 ... A_{K-1} g from stored iterates: each step's graph is rebuilt, used, freed.

    Exact, as `maml`, with the memory of one HVP at any K beside the K iterates.
    Cost: (4K+1) inner gradients; K HVPs, all serial.

    Source: the discrete adjoint of gradient descent; Franceschi et al., "Forward and Reverse
    Gradient-Based Hyperparameter Optimization", ICML 2017.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("adjoint")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.2500])
    """

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        iterates, outer_loss, g = adapt(problem, params)
        gradient = through_iterates(problem, iterates[:-1], g)
        return MetaGradient(gradient, outer_loss, iterates[-1], problem.steps, problem.steps)
