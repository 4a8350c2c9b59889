"""Implicit MAML: the meta-gradient of a proximally regularised inner problem."""

from collections import deque
from dataclasses import dataclass, replace
from math import inf

import torch

from estimators.errors import OptionError
from estimators.estimator import Estimator, MetaGradient
from estimators.hvp import HessianAt
from estimators.problem import BilevelProblem, Loss, evaluate, value_and_gradient
from estimators.registry import register
from estimators.tree import Params, axpy, dot, leaves, scaled


@register("imaml")
@dataclass(frozen=True)
class Imaml(Estimator):
    """(I + H(phi)/lambda)^{-1} grad outer_loss(phi), by conjugate gradients.

    phi comes from K gradient steps on inner_loss(phi) + lambda/2 ||phi - theta||^2, the
    estimator's own inner problem: its adapted parameters are not those of MAML. Its own
    objective is outer_loss(phi_K(theta)) with that phi_K, and `own_exact_gradient` is the exact
    gradient thereof; the formula agrees with it as phi_K nears the proximal minimiser. (The
    objective at the minimiser itself is no reference on ReLU networks: gradient descent does
    not settle where the minimiser lies on a kink.)
    Cost: (K+3J+1) inner gradients at most; J HVPs at one point, all serial, one graph.

    Attributes:
        lam: lambda > 0, the strength of the proximal term; the inner loop needs
            alpha (lambda + lambda_max(H)) < 2.
        cg_steps: J >= 1, conjugate-gradient steps from zero; fewer are taken once the residual
            is below `tolerance`, or where the curvature is not positive (the outer gradient is
            returned where the first one is not).
        tolerance: relative residual at which conjugate gradients stop.

    Source: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients",
    NeurIPS 2019, Eq. 6 and Algorithm 2.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=50)
        >>> create("imaml(lam=1.0)")(problem, {"w": torch.ones(1)}).gradient["w"]  # .5 / (1+1)
        tensor([0.2500])
    """

    lam: float = 100.0
    cg_steps: int = 5
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        if not 0 < self.lam < inf:
            raise OptionError(f"imaml: lam={self.lam} must be positive and finite")
        if self.cg_steps < 1:
            raise OptionError(f"imaml: cg_steps={self.cg_steps} must be 1 or more")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"imaml: tolerance={self.tolerance} must be in 0..1")

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        proximal = replace(problem, inner_loss=self._proximal_loss(problem.inner_loss, params))
        (phi,) = deque(proximal.trajectory(params), maxlen=1)
        outer_loss, g = value_and_gradient(problem.outer_loss, phi)
        gradient, products = self._solve(problem.inner_loss, phi, g)
        adapted = {name: value.detach() for name, value in phi.items()}
        return MetaGradient(gradient, outer_loss, adapted, products, products)

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params:
        """Back-propagates through the proximal inner loop, theta in the proximal term included.

        Args:
            problem: the bilevel problem.
            params: theta; float64 for a reference.

        Returns:
            d outer_loss(phi_K) / d theta for the proximal phi_K.
        """
        start = leaves(params)
        proximal = replace(problem, inner_loss=self._proximal_loss(problem.inner_loss, start))
        with torch.enable_grad():
            outer_loss = evaluate(problem.outer_loss, proximal.unroll(start, problem.steps))
        grads = torch.autograd.grad(outer_loss, list(start.values()), materialize_grads=True)
        return dict(zip(start, grads, strict=True))

    def _proximal_loss(self, inner_loss: Loss, anchor: Params) -> Loss:
        def loss(params: Params) -> torch.Tensor:
            apart = sum(((value - anchor[name]) ** 2).sum() for name, value in params.items())
            return inner_loss(params) + 0.5 * self.lam * apart

        return loss

    def _solve(self, inner_loss: Loss, point: Params, g: Params) -> tuple[Params, int]:
        """Conjugate gradients for (I + H/lambda) x = g, from x = 0; also counts the products."""
        hessian = HessianAt(inner_loss, point)
        x, residual, direction = scaled(0.0, g), g, g
        goal = self.tolerance**2 * dot(g, g)
        square = dot(residual, residual)
        products = 0
        while products < self.cg_steps and square > goal:
            products += 1
            product = hessian.product(direction, last=products == self.cg_steps)
            image = axpy(1 / self.lam, product, direction)
            curvature = dot(direction, image)
            if not curvature > 0:
                x = x if products > 1 else g
                break
            length = square / curvature
            x = axpy(length, direction, x)
            residual = axpy(-length, image, residual)
            previous, square = square, dot(residual, residual)
            direction = axpy(square / previous, direction, residual)
        return x, products
