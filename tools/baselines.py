"""Baselines to compare with: `metagrad run --import tools.baselines ...`."""

from dataclasses import dataclass

import torch

from estimators import BilevelProblem, Estimator, MetaGradient, Params, register
from estimators.hvp import hvp


@register("handwritten")
@dataclass(frozen=True)
class Handwritten(Estimator):
    """Exact meta-gradient by the usual lines: autograd.grad with create_graph, step by step."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        theta = {name: value.requires_grad_() for name, value in params.items()}
        phi = theta
        for _ in range(problem.steps):
            loss = problem.inner_loss(phi)
            grads = torch.autograd.grad(
                loss, list(phi.values()), create_graph=True, materialize_grads=True
            )
            phi = {n: v - problem.alpha * g for (n, v), g in zip(phi.items(), grads, strict=True)}
        outer_loss = problem.outer_loss(phi)
        grads = torch.autograd.grad(outer_loss, list(theta.values()), materialize_grads=True)
        gradient = dict(zip(theta, grads, strict=True))
        adapted = {name: value.detach() for name, value in phi.items()}
        return MetaGradient(gradient, outer_loss.detach(), adapted, problem.steps, problem.steps)


@register("one-hvp")
@dataclass(frozen=True)
class OneHvp(Estimator):
    """One Hessian-vector product at theta: no estimate, but a unit of cost."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        product = hvp(problem.inner_loss, params, params, engine="reverse")
        return MetaGradient(product, torch.zeros(()), params, hvps=1, serial_depth=1)
