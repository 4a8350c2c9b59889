"""Exact meta-gradient, one Hessian-vector product at a time."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, detached
from estimators.methods.backpropagation import (
    adapt,
    descent_and_back,
    through_iterates,
    through_segments,
)
from estimators.methods.options import AUTO, Checkpointed, Compilable, TakesProducts


@register("hf-maml", engine="finite-difference", compiled=False)
@register("adjoint")
@dataclass(frozen=True)
class Adjoint(TakesProducts, Checkpointed, Compilable):
    """A_0 A_1 ... A_{K-1} g from stored iterates: each step's graph is rebuilt, used, freed.

    Exact, as `maml`, with the memory of one HVP at any K beside the K iterates; with checkpoints
    beside 2 sqrt(K) of them: every ceil(sqrt(K))-th is stored, and those between are computed
    again from there, to the same bits. `hf-maml` is the same recursion with HVPs by finite
    differences of the gradient.
    Cost: (4K+1) inner gradients, below (5K+1) with checkpoints; K HVPs, all serial. `hf-maml`:
    (3K+1) and (4K+1), no second derivative.

    Source: the discrete adjoint of gradient descent; Franceschi et al., "Forward and Reverse
    Gradient-Based Hyperparameter Optimization", ICML 2017. `hf-maml`: Fallah, Mokhtari,
    Ozdaglar, "On the Convergence Theory of Gradient-Based Model-Agnostic Meta-Learning
    Algorithms", AISTATS 2020, section 4.3, there with one inner step.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("adjoint")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.2500])
    """

    supports_momentum: ClassVar[bool] = True
    supports_maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compiled and self.checkpoint != "none":
            raise OptionError(
                "adjoint: compiled programs store all iterates; use checkpoint='none' with them"
            )

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        rebuilt = steps - ceil(steps / self.stride(steps))
        return Cost(steps + 1 + self.graphs(steps) + rebuilt, steps, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`.

        Raises:
            OptionError: an engine was chosen, and the inner loop is not plain gradient descent.
        """
        steps = problem.steps
        if self.compiled or not problem.plain:
            if self.engine != AUTO:
                raise OptionError(
                    f"engine={self.engine!r} is for plain gradient descent with one step size; "
                    "use maml, or adjoint without an engine"
                )
            return through_segments(problem, params, length=1, stride=self.stride(steps))
        if self.checkpoint == "sqrt":
            return self._with_checkpoints(problem, params)
        points, adapted, outer_loss, g = adapt(problem, params)
        gradient = through_iterates(problem, points, g, self.engine_for(params))
        return MetaGradient(gradient, outer_loss, adapted, steps, steps)

    def _with_checkpoints(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        steps, engine = problem.steps, self.engine_for(params)
        end, before = descent_and_back(problem, params, length=1, stride=self.stride(steps))
        outer_loss, vector = problem.outer_gradient(end.params)
        for _, state in before:
            vector = through_iterates(problem, [state.params], vector, engine)
        return MetaGradient(vector, outer_loss, detached(end.params), steps, steps)
