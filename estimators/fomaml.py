"""First-order MAML: the outer gradient at the adapted parameters."""

from dataclasses import dataclass
from typing import ClassVar

from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, detached, scaled
from estimators.bounds import Assumption, fomaml_bound
from estimators.methods.options import Compilable
from estimators.programs.compiled import CompiledProblem


@register("fomaml")
@dataclass(frozen=True)
class Fomaml(Compilable):
    """g = grad outer_loss(phi_K): every A_k is taken for the identity.

    Likewise, steps are taken not to depend on their sizes: the gradient of these is 0.
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

    supports_momentum: ClassVar[bool] = True
    supports_maps: ClassVar[bool] = True

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1, 0, 0)

    def error_bound(self, assumption: Assumption, step_size: float, steps: int) -> float:
        """See `Estimator.error_bound`."""
        return fomaml_bound(assumption, step_size, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        if isinstance(problem, CompiledProblem):
            return problem.exact(params, last=0)
        adapted = problem.end(params)
        outer_loss, gradient = problem.outer_gradient(adapted)
        sizes = problem.step_size
        none = scaled(0.0, sizes) if isinstance(sizes, dict) else None
        return MetaGradient(
            gradient, outer_loss, detached(adapted), hvps=0, serial_depth=0, step_size_gradient=none
        )
