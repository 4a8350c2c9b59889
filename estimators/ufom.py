"""First-order MAML, corrected now and then so that it is unbiased."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.random import RandomEstimator, check_probability, uniform
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached
from estimators.methods.backpropagation import adapt, through_iterates
from estimators.methods.options import TakesProducts


@register("ufom")
@dataclass(frozen=True)
class Ufom(RandomEstimator, TakesProducts):
    """g + (xi/q) (A_0 ... A_{K-1} g - g), where xi is 1 with probability q, and 0 otherwise.

    Unbiased for the exact meta-gradient; its variance is 1/q - 1 times the squared error of
    `fomaml`. Where xi is 0, it is `fomaml`, and no iterate is kept.
    Cost: (K+1) inner gradients; with probability q, K HVPs as well, all serial.

    Attributes:
        q: probability of the exact meta-gradient, 0 < q < 1.

    Source: Likhosherstov, Song, Choromanski, Davis, Weller, "Debiasing a First-order Heuristic for
    Approximate Bi-level Optimization", ICML 2021, arXiv 2106.02487.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> ufom = create("ufom(q=0.5)")
        >>> [float(ufom(problem, {"w": torch.ones(1)}, generator=generator).gradient["w"])
        ...     for _ in range(4)]  # 1/4 in the mean
        [0.5, 0.5, 0.0, 0.5]
    """

    is_unbiased: ClassVar[bool] = True

    q: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("ufom: q", self.q)

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1 + self.q * self.graphs(steps), self.q * steps, self.q * steps)

    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        """See `RandomEstimator.draw`."""
        if uniform(params, generator) >= self.q:
            for point in problem.trajectory(params):
                end = point
            outer_loss, g = problem.outer_gradient(end)
            return MetaGradient(g, outer_loss, detached(end), 0, 0)
        points, adapted, outer_loss, g = adapt(problem, params)
        exact = through_iterates(problem, points, g, self.engine_for(params))
        gradient = axpy(1 / self.q, axpy(-1.0, g, exact), g)
        return MetaGradient(gradient, outer_loss, adapted, problem.steps, problem.steps)
