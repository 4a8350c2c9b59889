"""Binomial estimator with the step size scaled as in its authors' released code."""

from dataclasses import dataclass

from estimators.base.estimator import Cost, MetaGradient, Ordered
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params
from estimators.methods.backpropagation import adapt
from estimators.methods.cascade import Cascading


@register("binom-released")
@dataclass(frozen=True)
class BinomReleased(Ordered, Cascading):
    """Eq. 8 with alpha L/K in place of alpha; phi_K and g are those of the step size alpha.

    Exact at L = 0, as `fomaml`, and at L = K, as `maml`, only. In between it is about as
    inaccurate as `truncated` where alpha H is small, and blows up less than `binom` where it is
    large.
    Cost: as `binom`.

    Attributes:
        order: L, 0 <= L <= K.

    Source: the code released with Zhang et al., "Binomial Gradient-Based Meta-Learning for
    Enhanced Meta-Gradient Estimation", ICLR 2026, multiplies each sum of HVPs so; written from
    that formula only.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> released = create("binom-released(order=1)")  # (1 - 2 * .25) g, g = .5^2
        >>> released(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.1250])
    """

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return self.cascade_cost(steps, points=steps, order=self.order)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, order = problem.steps, self.order
        points, adapted, outer_loss, g = adapt(problem, params)
        scale = problem.alpha * order / max(steps, 1)
        gradient = self.cascade(problem, points, g, order, scale)
        return MetaGradient(gradient, outer_loss, adapted, order * (steps - order + 1), order)
