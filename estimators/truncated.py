"""Truncated back-propagation: exact through the last inner steps, identity before."""

from dataclasses import dataclass
from typing import ClassVar

from estimators.base.estimator import Cost, MetaGradient, Ordered
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params
from estimators.bounds import Assumption, truncated_bound
from estimators.methods.backpropagation import through_graph
from estimators.methods.options import Compilable


@register("truncated")
@dataclass(frozen=True)
class Truncated(Ordered, Compilable):
    """A_{K-L} ... A_{K-1} g, by back-propagation through the last L unrolled steps.

    L = 0 is `fomaml`, L = K is `maml`. The graphs of L steps live at once.
    Cost: (K+2L+1) inner gradients; L HVPs, all serial.

    Attributes:
        order: L, 0 <= L <= K.

    Source: Shaban, Cheng, Hatch, Boots, "Truncated Back-propagation for Bilevel Optimization",
    AISTATS 2019.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> create("truncated(order=1)")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.1250])
    """

    supports_momentum: ClassVar[bool] = True
    supports_maps: ClassVar[bool] = True

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1, self.order, self.order)

    def error_bound(self, assumption: Assumption, step_size: float, steps: int) -> float:
        """See `Estimator.error_bound`."""
        return truncated_bound(assumption, step_size, steps, self.order)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        return through_graph(problem, params, self.order)
