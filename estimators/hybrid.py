"""Hybrid estimator: the binomial expansion over the last inner steps, identity before."""

from dataclasses import dataclass, replace

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient, Ordered
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params
from estimators.bounds import Assumption, hybrid_bound
from estimators.methods.backpropagation import adapt
from estimators.methods.cascade import Cascading


@register("hybrid")
@dataclass(frozen=True)
class Hybrid(Ordered, Cascading):
    """[I + sum_{l=1..L} sum_{K-C<=k_1<...<k_l<K} (-alpha)^l H_{k_1} ... H_{k_l}] g.

    C = K is `binom` of order L; L = C is `truncated` of order C with each step's graph rebuilt.
    Cost: K+1 inner gradients and L(C-L+1) HVPs, of which L must follow one another; C+1 iterates.

    Attributes:
        order: L, 0 <= L <= C.
        window: C, L <= C <= K.

    Source: Zhang et al., "Binomial Gradient-Based Meta-Learning for Enhanced Meta-Gradient
    Estimation", ICLR 2026, arXiv 2604.13263, Table 2; the formula was derived for this project.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=3)
        >>> hybrid = create("hybrid(order=1, window=1)")  # (1 - .5) g, g = .5^3
        >>> hybrid(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.0625])
    """

    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < self.order:
            raise OptionError(
                f"hybrid: window={self.window} is below order={self.order}; order <= window <= K"
            )

    def unsupported_reason(self, steps: int) -> str | None:
        """See `Estimator.unsupported_reason`."""
        if self.window > steps:
            return f"hybrid: window={self.window} is more than the depth {steps}"
        return super().unsupported_reason(steps)

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return self.cascade_cost(steps, points=self.window, order=self.order)

    def error_bound(self, assumption: Assumption, step_size: float, steps: int) -> float:
        """See `Estimator.error_bound`."""
        return hybrid_bound(assumption, step_size, steps, self.order, self.window)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        order, window = self.order, self.window
        before = replace(problem, steps=problem.steps - window)
        within = replace(problem, steps=window)
        points, adapted, outer_loss, g = adapt(within, before.adapt(params))
        gradient = self.cascade(problem, points, g, order, problem.alpha)
        return MetaGradient(gradient, outer_loss, adapted, order * (window - order + 1), order)
