"""Implicit MAML: the meta-gradient of a proximally regularised inner problem."""

from dataclasses import dataclass

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, dot, scaled
from estimators.hvp import Hessian
from estimators.methods.proximal import Proximal


@register("imaml")
@dataclass(frozen=True)
class Imaml(Proximal):
    """(I + H(phi)/lambda)^{-1} grad outer_loss(phi), by conjugate gradients.

    See `Proximal` for phi, its own inner problem, and for the objective that it follows.
    Cost: (K+2J+2) inner gradients at most; J HVPs at one point, all serial, one graph.

    Attributes:
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

    cg_steps: int = 5
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cg_steps < 1:
            raise OptionError(f"imaml: cg_steps={self.cg_steps} must be 1 or more")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"imaml: tolerance={self.tolerance} must be in 0..1")

    @property
    def batchable(self) -> bool:
        """False: the lengths of conjugate gradients depend on all problems of a stack."""
        return False

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1 + self.graphs(1), self.cg_steps, self.cg_steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        hessian, adapted, outer_loss, g = self.adapt(problem, params)
        gradient, products = self._solve(hessian, g)
        return MetaGradient(gradient, outer_loss, adapted, products, products)

    def _solve(self, hessian: Hessian, g: Params) -> tuple[Params, int]:
        """Conjugate gradients for (I + H/lambda) x = g, from x = 0; also counts the products."""
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
