"""Reptile: the displacement of the inner loop, taken as a gradient."""

from dataclasses import dataclass

import torch

from estimators.base.differentiation import evaluate
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.phases import Phase, phase
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached, scaled
from estimators.methods.options import Compilable


@register("reptile")
@dataclass(frozen=True)
class Reptile(Compilable):
    """(theta - phi_K) / alpha = sum_k grad inner_loss(phi_k).

    It never looks at the query set for its direction, and its length grows with K: read its
    cosine rather than its relative error. The outer loss is evaluated to be returned, once.
    Cost: K inner gradients and one outer loss; no HVP.

    Source: Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018,
    arXiv 1803.02999.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> create("reptile")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([1.5000])
    """

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps, 0, 0)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        adapted = detached(problem.adapt(params))
        with phase(Phase.OUTER_GRADIENT), torch.no_grad():
            outer_loss = evaluate(problem.outer_loss, adapted)
        gradient = scaled(1 / problem.alpha, axpy(-1.0, adapted, params))
        return MetaGradient(gradient, outer_loss, adapted, hvps=0, serial_depth=0)
