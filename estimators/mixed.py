"""Exact meta-gradient of a weighted mean of the outer losses along the inner loop."""

from dataclasses import dataclass
from sys import float_info
from typing import ClassVar

import torch
from torch import Tensor

from estimators.base.differentiation import differentiate, evaluate
from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached, scaled
from estimators.methods.backpropagation import through_iterates
from estimators.methods.options import Compilable, TakesProducts
from estimators.programs.compiled import CompiledProblem


@register("mixed")
@dataclass(frozen=True)
class Mixed(TakesProducts, Compilable):
    """sum_{j=1..K} w_j d outer_loss(phi_j) / d theta, with weights that sum to 1.

    One backward sweep has them all: v <- A_k v + w_k g_k, from v = w_K g_K, with g_j the
    outer gradient at phi_j. At K = 0 it is the outer gradient at theta.
    Cost: K inner gradients, K outer gradients (fewer where weights are 0) and K HVPs, all serial.

    Attributes:
        weights: "uniform", 1/K each; "geometric", w_j in proportion to ratio^(K-j); "maml++",
            w_j = max((1-p)/K, .03/K) for j < K and the rest for w_K, p being the progress; or K
            numbers, 0 or more, of which the last is above 0; they are divided by their sum.
        ratio: of the geometric weights, 0 < ratio < 1.
        progress: of the training for "maml++", 0 (uniform weights) to 1 (nearly all on the last
            step): the epoch over the number of epochs that annealing takes.

    Source: after "One Step at a Time: Pros and Cons of Multi-Step Meta-Gradient Reinforcement
    Learning", Bonnet et al. 2021, arXiv 2111.00206, who mix meta-gradients of several horizons;
    their weights were not available, the geometric ones are this project's own. "maml++":
    Antoniou, Edwards, Storkey, "How to Train Your MAML", ICLR 2019, multi-step loss.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> create("mixed")(problem, {"w": torch.ones(1)}).gradient["w"]  # (1/4 + 1/16) / 2
        tensor([0.1562])
    """

    supports_maps: ClassVar[bool] = True

    weights: str | tuple[float, ...] = "uniform"
    ratio: float = 0.5
    progress: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.weights, str):
            if self.weights not in ("uniform", "geometric", "maml++"):
                raise OptionError(
                    f"mixed: weights={self.weights!r} is none of 'uniform', 'geometric' and "
                    "'maml++'; or give K numbers: weights=(1, 2, 3)"
                )
        elif (
            not isinstance(self.weights, tuple)
            or not (self.weights and all(map(self._may_be_weight, self.weights)))
            or not self.weights[-1] > 0
        ):
            raise OptionError(
                f"mixed: weights={self.weights!r} must be numbers, 0 or more, the last above 0"
            )
        if not 0 < self.ratio < 1:
            raise OptionError(f"mixed: ratio={self.ratio} must be between 0 and 1")
        if not 0 <= self.progress <= 1:
            raise OptionError(f"mixed: progress={self.progress} must be in 0..1")

    def _may_be_weight(self, weight: object) -> bool:
        most = float_info.max / len(self.weights)  # so that their sum is finite
        return isinstance(weight, int | float) and 0 <= weight <= most

    def unsupported_reason(self, steps: int) -> str | None:
        """See `Estimator.unsupported_reason`."""
        if isinstance(self.weights, tuple) and len(self.weights) != steps:
            return f"mixed: {len(self.weights)} weights were given for depth {steps}"
        return None

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        outer = sum(weight > 0 for weight in self.weights_at(steps))
        return Cost(steps + outer + self.graphs(steps), steps, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, weights = problem.steps, self.weights_at(problem.steps)
        if isinstance(problem, CompiledProblem):
            return problem.exact(params, steps, weights)
        engine = self.engine_for(params)
        iterates = list(problem.trajectory(params))
        outer_loss, g = problem.outer_gradient(iterates[-1])
        vector = scaled(weights[-1], g)
        for k in reversed(range(steps)):
            vector = through_iterates(problem, [iterates[k]], vector, engine, first=k)
            if k and weights[k - 1]:
                _, g = problem.outer_gradient(iterates[k])
                vector = axpy(weights[k - 1], g, vector)
        return MetaGradient(vector, outer_loss, detached(iterates[-1]), steps, steps)

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params:
        """Back-propagate the weighted mean through the unrolled inner loop.

        Args:
            problem: the bilevel problem.
            params: theta; float64 for a reference.
        """

        def mean(theta: Params) -> tuple[Tensor, Params]:
            state, losses = problem.start(theta), []
            for weight in self.weights_at(problem.steps):
                state = problem.unroll(state, min(problem.steps, 1))
                losses.append(weight * evaluate(problem.outer_loss, state.params))
            return torch.stack(losses).sum(), {}

        with torch.enable_grad():
            return differentiate(mean, params)[2][0]

    def weights_at(self, steps: int) -> list[float]:
        """Return w_1, ..., w_K, which sum to 1; a single 1 at depth 0.

        Args:
            steps: K.
        """
        if not steps:
            return [1.0]
        if isinstance(self.weights, tuple):
            raw = [float(weight) for weight in self.weights]
        elif self.weights == "maml++":
            early = max(1 - self.progress, 0.03) / steps
            raw = [*[early] * (steps - 1), 1 - (steps - 1) * early]
        else:
            ratio = self.ratio if self.weights == "geometric" else 1.0
            raw = [ratio ** (steps - j) for j in range(1, steps + 1)]
        return [weight / sum(raw) for weight in raw]
