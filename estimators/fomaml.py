"""First-order MAML: the outer gradient at the adapted parameters."""

from collections import deque
from dataclasses import dataclass

from estimators.backpropagation import through_graph
from estimators.estimator import Estimator, MetaGradient
from estimators.problem import BilevelProblem
from estimators.registry import register
from estimators.tree import Params


@register("fomaml")
@dataclass(frozen=True)
class Fomaml(Estimator):
    """g = grad outer_loss(phi_K): every A_k is taken for the identity.

    Cost: (K+1) inner gradients; no HVP.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017, section 5.2.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("fomaml")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.5000])
    """

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        (last,) = deque(problem.trajectory(params), maxlen=1)
        outer_loss, gradient, adapted = through_graph(problem, last, steps=0)
        return MetaGradient(gradient, outer_loss, adapted, hvps=0, serial_depth=0)
