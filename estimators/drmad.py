"""Meta-gradient along a straight line in place of the inner loop's iterates."""

from dataclasses import dataclass

from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached
from estimators.hvp import kernels_for
from estimators.methods.backpropagation import through_iterates
from estimators.methods.options import TakesProducts


@register("drmad")
@dataclass(frozen=True)
class Drmad(TakesProducts):
    """B_0 B_1 ... B_{K-1} g, B_k = I - alpha H at (1 - k/K) theta + (k/K) phi_K.

    `adjoint` with iterates that are interpolated instead of stored: two points of memory at any
    K, beside one HVP. It is as good as the loop is straight, and exact where the Hessian is
    constant, or K is 1.
    Cost: (4K+1) inner gradients; K HVPs, all serial.

    Source: Fu, Luo, Feng, Low, Chua, "DrMAD: Distilling Reverse-Mode Automatic Differentiation
    for Optimizing Hyperparameters of Deep Neural Networks", IJCAI 2016, arXiv 1601.00917.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.25 * (params["w"] ** 4).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=1)
        >>> create("drmad")(problem, {"w": torch.ones(1)}).gradient["w"]  # (1 - 3/2) / 8
        tensor([-0.0625])
    """

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 1 + self.graphs(steps), steps, steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, engine = problem.steps, self.engine_for(params)
        end = problem.adapt(params)
        outer_loss, vector = problem.outer_gradient(end)
        adapted = detached(end)
        way = axpy(-1.0, params, adapted)
        with kernels_for(engine):
            for k in reversed(range(steps)):
                point = axpy(k / steps, way, params)
                vector = through_iterates(problem, [point], vector, engine)
        return MetaGradient(vector, outer_loss, adapted, steps, steps)
