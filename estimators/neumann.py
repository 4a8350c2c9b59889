"""Implicit meta-gradient by a Neumann series."""

from dataclasses import dataclass

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy
from estimators.methods.proximal import Implicit


@register("neumann")
@dataclass(frozen=True)
class Neumann(Implicit):
    """sum_{j=0..J} (-H(phi)/lambda)^j grad outer_loss(phi): `imaml`, its inverse as a series.

    See `Proximal` for phi, its own inner problem, and for the objective that it follows. The
    series converges where ||H(phi)|| < lambda.
    Cost: (K+2J+2) inner gradients; J HVPs at one point, all serial, one graph.

    Attributes:
        terms: J >= 0, HVPs; 0 is the outer gradient at phi.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
    Differentiation", AISTATS 2020, Algorithm 3, on the system of Rajeswaran et al. 2019, Eq. 6.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.25, steps=50)
        >>> neumann = create("neumann(terms=1, lam=4.0)")  # (1 - 1/4) g, g = 4/5
        >>> neumann(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.6000])
    """

    terms: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms < 0:
            raise OptionError(f"neumann: terms={self.terms} must be 0 or more")

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1 + self.graphs(1), self.terms, self.terms)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        hessian, adapted, outer_loss, g = self.adapt(problem, params)
        total = g
        for term in range(1, self.terms + 1):
            product = hessian.product(total, last=term == self.terms)
            total = axpy(-1 / self.lam, product, g)
        return MetaGradient(total, outer_loss, adapted, self.terms, self.terms)
