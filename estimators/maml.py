"""Exact meta-gradient by back-propagation through the unrolled inner loop."""

from dataclasses import dataclass
from typing import ClassVar

from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params
from estimators.methods.backpropagation import through_graph, through_segments
from estimators.methods.options import Checkpointed, Compilable


@register("maml")
@dataclass(frozen=True)
class Maml(Checkpointed, Compilable):
    """A_0 A_1 ... A_{K-1} g, with A_k = I - alpha H_k and g the outer gradient at phi_K.

    Exact. All K steps' graphs live at once, and memory grows with K; with checkpoints at every
    ceil(sqrt(K))-th iterate, the graphs of one segment live at a time, rebuilt from there.
    Cost: (3K+1) inner gradients, (4K+1) with checkpoints; K HVPs, all serial.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017; checkpoints: Chen et
    al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("maml")(problem, {"w": torch.ones(1)}).gradient["w"]  # .5 * (1 - .5)
        tensor([0.2500])
    """

    supports_momentum: ClassVar[bool] = True
    supports_maps: ClassVar[bool] = True

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        rebuilt = steps if self.checkpoint == "sqrt" else 0
        return Cost(steps + 1 + rebuilt, steps, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        if self.checkpoint == "sqrt":
            length = self.stride(problem.steps)
            return through_segments(problem, params, length, stride=length)
        return through_graph(problem, params, problem.steps)
