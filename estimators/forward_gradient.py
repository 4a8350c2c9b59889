"""Unbiased meta-gradient by tangents that are carried forward along the inner loop."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.random import RandomEstimator, signs
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached, dot, scaled
from estimators.hvp import hessian_at, kernels_for
from estimators.methods.options import TakesProducts


@register("forward-gradient")
@dataclass(frozen=True)
class ForwardGradient(RandomEstimator, TakesProducts):
    """1/n sum_{i=1..n} v_i <g, A_{K-1} ... A_0 v_i>, where entries of v_i are 1 or -1 at random.

    Unbiased for the exact meta-gradient, with (d-1)/n times its squared norm as variance, for d
    parameters in all. The tangents u <- A_k u go along with the inner loop: no iterate is kept,
    and products at one iterate share a graph.
    Cost: (2K+1) inner gradients; n K HVPs, of which K must follow one another.

    Attributes:
        n: number of directions, 1 or more.

    Source: Shen et al., "Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization"
    (FG2U), NeurIPS 2024, arXiv 2406.14095.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("forward-gradient(n=1)")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.2500])
    """

    is_unbiased: ClassVar[bool] = True

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise OptionError(f"forward-gradient: n={self.n} must be 1 or more")

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1 + self.graphs(steps), self.n * steps, steps)

    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        """See `RandomEstimator.draw`."""
        directions = [signs(params, generator) for _ in range(self.n)]
        tangents, engine = directions, self.engine_for(params)
        for step, phi in enumerate(problem.trajectory(params)):
            if step < problem.steps:
                with kernels_for(engine):
                    hessian = hessian_at(problem.inner_loss, phi, engine=engine)
                    products = [
                        hessian.product(tangent, last=index == self.n)
                        for index, tangent in enumerate(tangents, start=1)
                    ]
                tangents = [
                    axpy(-problem.alpha, product, tangent)
                    for product, tangent in zip(products, tangents, strict=True)
                ]
        outer_loss, g = problem.outer_gradient(phi)
        gradient = scaled(0.0, g)
        for direction, tangent in zip(directions, tangents, strict=True):
            gradient = axpy(dot(g, tangent) / self.n, direction, gradient)
        steps = problem.steps
        return MetaGradient(gradient, outer_loss, detached(phi), self.n * steps, steps)
