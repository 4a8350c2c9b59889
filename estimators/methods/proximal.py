"""The proximal inner problem of the estimators that are implicit, and of their like."""

from dataclasses import dataclass, replace
from math import inf

import torch

from estimators.base.differentiation import Loss, differentiate, evaluate
from estimators.base.errors import OptionError
from estimators.base.estimator import Estimator
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params, detached
from estimators.hvp import Hessian
from estimators.methods.options import Compilable, TakesProducts
from estimators.programs.compiled import CompiledProblem


@dataclass(frozen=True, kw_only=True)
class Proximal(Estimator):
    """An estimator of (I + H(phi)/lambda)^{-1} grad outer_loss(phi).

    phi comes from K gradient steps on inner_loss(phi) + lambda/2 ||phi - theta||^2, the
    estimator's own inner problem: its adapted parameters are not those of MAML. Its own
    objective is outer_loss(phi_K(theta)) with that phi_K, and `own_exact_gradient` is the exact
    gradient thereof; the formula agrees with it as phi_K nears the proximal minimiser. (The
    objective at the minimiser itself is no reference on ReLU networks: gradient descent does
    not settle where the minimiser lies on a kink.)

    Attributes:
        lam: lambda > 0, the strength of the proximal term; the inner loop needs
            alpha (lambda + lambda_max(H)) < 2, and refuses alpha lambda >= 2.

    Source: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients",
    NeurIPS 2019, Eq. 3 and 6.
    """

    lam: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.lam < inf:
            raise OptionError(f"{self.title}: lam={self.lam} must be positive and finite")

    def refuse_divergence(self, problem: BilevelProblem) -> None:
        """Refuse a step size with which the proximal term makes the inner loop diverge.

        Args:
            problem: the bilevel problem.

        Raises:
            OptionError: it does.
        """
        if problem.alpha * self.lam >= 2:
            raise OptionError(
                f"{self.title}: its inner loop diverges at lam={self.lam} with step size "
                f"{problem.alpha}; their product must be below 2"
            )

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params:
        """Back-propagate through the proximal inner loop, theta in the proximal term included.

        Args:
            problem: the bilevel problem.
            params: theta; float64 for a reference.

        Returns:
            d outer_loss(phi_K) / d theta for the proximal phi_K.
        """

        def outer(theta: Params) -> tuple[torch.Tensor, Params]:
            proximal = replace(problem, inner_loss=proximal_loss(problem, theta, self.lam))
            end = proximal.unroll(proximal.start(theta), problem.steps)
            return evaluate(problem.outer_loss, end.params), {}

        with torch.enable_grad():
            return differentiate(outer, params)[2][0]


@dataclass(frozen=True, kw_only=True)
class Implicit(Proximal, TakesProducts, Compilable):
    """An estimator of the proximal kind that solves its linear system by products."""

    def adapt(
        self, problem: BilevelProblem, params: Params
    ) -> tuple[Hessian, Params, torch.Tensor, Params]:
        """Run the proximal inner loop, and take the outer gradient at its end.

        Args:
            problem: the bilevel problem.
            params: theta.

        Returns:
            The Hessian of the inner loss (without its proximal term) at phi_K, phi_K, the outer
            loss there, and its gradient.

        Raises:
            OptionError: the proximal term makes the inner loop diverge.
        """
        self.refuse_divergence(problem)
        if isinstance(problem, CompiledProblem):
            return problem.proximal(params, self.lam)
        proximal = replace(problem, inner_loss=proximal_loss(problem, params, self.lam))
        phi = proximal.adapt(params)
        outer_loss, g = problem.outer_gradient(phi)
        hessian = self.hessian_at(problem, detached(phi))
        return hessian, detached(phi), outer_loss, g


def proximal_loss(problem: BilevelProblem, anchor: Params, strength: float) -> Loss:
    """Return the inner loss with a proximal term.

    Args:
        problem: has the inner loss.
        anchor: theta.
        strength: lambda.
    """

    def loss(params: Params) -> torch.Tensor:
        apart = sum(((value - anchor[name]) ** 2).sum() for name, value in params.items())
        return problem.inner_loss(params) + 0.5 * strength * apart

    return loss
