"""Exact meta-gradient by back-propagation through the unrolled inner loop."""

from dataclasses import dataclass

from estimators.backpropagation import through_graph
from estimators.estimator import Estimator, MetaGradient
from estimators.problem import BilevelProblem
from estimators.registry import register
from estimators.tree import Params


@register("maml")
@dataclass(frozen=True)
class Maml(Estimator):
    """A_0 A_1 ... A_{K-1} g, with A_k = I - alpha H_k and g the outer gradient at phi_K.

    Exact. All K steps' graphs live at once: memory grows with K.
    Cost: (3K+1) inner gradients; K HVPs, all serial.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("maml")(problem, {"w": torch.ones(1)}).gradient["w"]  # .5 * (1 - .5)
        tensor([0.2500])
    """

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        outer_loss, gradient, adapted = through_graph(problem, params, problem.steps)
        return MetaGradient(gradient, outer_loss, adapted, problem.steps, problem.steps)
