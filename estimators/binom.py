"""Binomial estimator: the product of A_k, expanded and cut at order L."""

from dataclasses import dataclass

from estimators.backpropagation import adapt
from estimators.estimator import Estimator, MetaGradient, check_order, order_misfit
from estimators.hvp import HessianAt
from estimators.problem import BilevelProblem
from estimators.registry import register
from estimators.tree import Params, axpy


@register("binom")
@dataclass(frozen=True)
class Binom(Estimator):
    """[I + sum_{l=1..L} sum_{0<=k_1<...<k_l<K} (-alpha)^l H_{k_1} ... H_{k_l}] g.

    Computed by the cascade u_l(m) = u_l(m+1) - alpha H_m u_{l-1}(m+1), where u_l(m) is the
    order-l truncation of A_m ... A_{K-1} g, and the answer is u_L(0). u_l(m) is exact from
    l = K-m on, so that level l needs the points m = L-l .. K-l alone: L(K-L+1) products.
    The levels of one point share its gradient graph, and one graph lives at a time.

    L = 0 is `fomaml`, L = K is `maml`.
    Cost: K+1 inner gradients and L(K-L+1) HVPs, of which L must follow one another. They are
    never fewer than the K HVPs of exact back-propagation (L >= 1): the gain is in depth and
    memory. Here they are taken point by point, in K serial steps, which suits one processor.

    Attributes:
        order: L, 0 <= L <= K.

    Source: Zhang et al., "Binomial Gradient-Based Meta-Learning for Enhanced Meta-Gradient
    Estimation", ICLR 2026, arXiv 2604.13263, Eq. 8; the recursion over points was derived for
    this project.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> create("binom(order=1)")(problem, {"w": torch.ones(1)}).gradient["w"]  # (1-2*.5) g
        tensor([0.])
    """

    order: int

    def __post_init__(self) -> None:
        check_order("binom", self.order)

    def misfit(self, steps: int) -> str | None:
        """See `Estimator.misfit`."""
        return order_misfit("binom", self.order, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, order = problem.steps, self.order
        iterates, outer_loss, g = adapt(problem, params)
        levels = [g]  # levels[l] is u_l; those above the top are equal to the top
        for m in reversed(range(steps)) if order else ():
            top, bottom = min(order, steps - m), max(1, order - m)
            if top == len(levels):
                levels.append(levels[-1])
            hessian = HessianAt(problem.inner_loss, iterates[m])
            for level in range(top, bottom - 1, -1):
                product = hessian.product(levels[level - 1], last=level == bottom)
                levels[level] = axpy(-problem.step_size, product, levels[level])
        hvps = order * (steps - order + 1)
        return MetaGradient(levels[-1], outer_loss, iterates[-1], hvps, order)
