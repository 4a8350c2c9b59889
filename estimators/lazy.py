"""Meta-gradient by one leap of a teacher toward a student that has taken the inner steps."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from estimators.base.differentiation import differentiate, evaluate
from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached, leaves
from estimators.hvp import hvp
from estimators.methods.options import TakesProducts

_PLACES = ("start", "middle", "last")


@register("lazy")
@dataclass(frozen=True)
class Lazy(TakesProducts):
    """(I - beta H(z)) grad outer_loss(phi_T), phi_T = theta + gamma (phi_K - theta).

    A student takes the K steps; the teacher leaps toward it, and back-propagates through the leap
    phi_T = theta + gamma sg(phi_K - theta) - beta (grad inner_loss(z) - sg(grad inner_loss(z)))
    alone, sg being constants and dz / dtheta = I. Its memory does not grow with K. With beta = 0 it
    is `fomaml` at phi_T; with gamma = 1 and beta = alpha at the last iterate it is
    `truncated(order=1)`; with gamma = 1 and the default beta it is `binom(order=1)` where the
    Hessian is constant. At K = 0, where there is nothing to leap over, it is the outer gradient.
    Unless gamma is 1, its own objective is outer_loss(phi_T(theta)), and phi_T what it adapts to.
    Cost: (K+1) inner gradients and 1 HVP.

    Attributes:
        gamma: above 0; 1 leaps to the student.
        beta: 0 or more; None is gamma K alpha, the first order of its own objective.
        at: z: "start" is theta, "middle" phi_{K/2} (rounded down), "last" phi_{K-1}.

    Source: after Jamal, Wang, Gong, "A Lazy Approach to Long-Horizon Gradient-Based
    Meta-Learning", ICCV 2021; the leap is this project's definition, and may differ from theirs.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.25, steps=2)
        >>> create("lazy")(problem, {"w": torch.ones(1)}).gradient["w"]  # (1 - 1/2) 9/16
        tensor([0.2812])
    """

    gamma: float = 1.0
    beta: float | None = None
    at: str = "middle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isfinite(self.gamma) and self.gamma > 0):
            raise OptionError(f"lazy: gamma={self.gamma} must be positive and finite")
        if self.beta is not None and not (isfinite(self.beta) and self.beta >= 0):
            raise OptionError(f"lazy: beta={self.beta} must be 0 or more and finite, or None")
        if self.at not in _PLACES:
            raise OptionError(f"lazy: at={self.at!r} is none of {', '.join(map(repr, _PLACES))}")

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        products = 0 if not steps or self.beta == 0 else 1
        return Cost(steps + 1 + self.graphs(products), products, products)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps = problem.steps
        whole = self.gamma * steps * problem.alpha  # the first order of phi_T
        beta = whole if self.beta is None else self.beta if steps else 0.0
        place = {"start": 0, "middle": steps // 2, "last": steps - 1}[self.at]
        for k, phi in enumerate(problem.trajectory(params)):
            if k == place:
                z = detached(phi)
        end = leaves(axpy(self.gamma, axpy(-1.0, params, detached(phi)), params))
        outer_loss, gradient = problem.outer_gradient(end)
        products = int(beta > 0)
        if products:
            product = hvp(problem.inner_loss, z, gradient, engine=self.engine_for(params))
            gradient = axpy(-beta, product, gradient)
        return MetaGradient(gradient, outer_loss, detached(end), products, products)

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params | None:
        """Back-propagate outer_loss(phi_T(theta)) through the unrolled inner loop.

        Args:
            problem: the bilevel problem.
            params: theta; float64 for a reference.

        Returns:
            None where gamma is 1: phi_T is phi_K then.
        """
        if self.gamma == 1:
            return None

        def outer(theta: Params) -> tuple[Tensor, Params]:
            end = problem.unroll(problem.start(theta), problem.steps).params
            leap = axpy(self.gamma, axpy(-1.0, theta, end), theta)
            return evaluate(problem.outer_loss, leap), {}

        with torch.enable_grad():
            return differentiate(outer, params)[2][0]
