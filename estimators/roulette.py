"""Unbiased back-propagation through a random number of the last inner steps."""

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import torch

from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.random import RandomEstimator, check_probability, uniform
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached
from estimators.hvp import hvp, kernels_for
from estimators.methods.options import TakesProducts


@register("roulette")
@dataclass(frozen=True)
class Roulette(RandomEstimator, TakesProducts):
    """g + sum_{l=1..N} (t_l - t_{l-1}) / rate^l, t_0 = g, t_l = A_{K-l} t_{l-1}, N random.

    Unbiased for the exact meta-gradient t_K: N >= l has the probability rate^l, for l <= K. The
    variance grows as rate falls. Only the last N iterates are kept.
    Cost: (K+1) inner gradients; N HVPs, all serial, sum_{l=1..K} rate^l in expectation.

    Attributes:
        rate: probability that the sum goes on after a term, 0 < rate < 1.

    Source: Beatson, Adams, "Efficient Optimization of Loops and Limits with Randomized Telescoping
    Sums", ICML 2019.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> roulette = create("roulette(rate=0.5)")
        >>> [float(roulette(problem, {"w": torch.ones(1)}, generator=generator).gradient["w"])
        ...     for _ in range(4)]  # 1/4 in the mean
        [0.5, 0.5, 0.0, 0.5]
    """

    is_unbiased: ClassVar[bool] = True

    rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("roulette: rate", self.rate)

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        products = sum(self.rate**term for term in range(1, steps + 1))
        return Cost(steps + 1 + self.graphs(1) * products, products, products)

    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        """See `RandomEstimator.draw`."""
        number = uniform(params, generator)
        terms = sum(number < self.rate**term for term in range(1, problem.steps + 1))
        *points, end = deque(problem.trajectory(params), maxlen=terms + 1)
        outer_loss, g = problem.outer_gradient(end)
        engine, total, vector = self.engine_for(params), g, g
        with kernels_for(engine):
            for term in range(1, terms + 1):
                product = hvp(problem.inner_loss, points.pop(), vector, engine=engine)
                total = axpy(-problem.alpha / self.rate**term, product, total)
                vector = axpy(-problem.alpha, product, vector)
        return MetaGradient(total, outer_loss, detached(end), terms, terms)
