"""Binomial estimator: the product of A_k, expanded and cut at order L."""

from dataclasses import dataclass
from typing import ClassVar

from estimators.base.estimator import Cost, MetaGradient, Ordered
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params
from estimators.bounds import Assumption, binom_bound
from estimators.methods.backpropagation import adapt
from estimators.methods.cascade import Cascading


@register("binom")
@dataclass(frozen=True)
class Binom(Ordered, Cascading):
    """[I + sum_{l=1..L} sum_{0<=k_1<...<k_l<K} (-alpha)^l H_{k_1} ... H_{k_l}] g.

    L = 0 is `fomaml`, L = K is `maml`.
    Cost: K+1 inner gradients and L(K-L+1) HVPs, of which L must follow one another. They are
    never fewer than the K HVPs of exact back-propagation (L >= 1): the gain is in depth and
    memory.

    Attributes:
        order: L, 0 <= L <= K.

    Source: Zhang et al., "Binomial Gradient-Based Meta-Learning for Enhanced Meta-Gradient
    Estimation", ICLR 2026, arXiv 2604.13263, Eq. 8; evaluated by `estimators.methods.cascade`.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> create("binom(order=1)")(problem, {"w": torch.ones(1)}).gradient["w"]  # (1-2*.5) g
        tensor([0.])
    """

    supports_maps: ClassVar[bool] = True

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return self.cascade_cost(steps, points=steps, order=self.order)

    def error_bound(self, assumption: Assumption, step_size: float, steps: int) -> float:
        """See `Estimator.error_bound`."""
        return binom_bound(assumption, step_size, steps, self.order)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, order = problem.steps, self.order
        points, adapted, outer_loss, g = adapt(problem, params)
        gradient = self.cascade(problem, points, g, order, problem.alpha)
        return MetaGradient(gradient, outer_loss, adapted, order * (steps - order + 1), order)
