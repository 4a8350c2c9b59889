"""The contract of an estimator, and what a call returns."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.errors import OptionError
from estimators.problem import BilevelProblem
from estimators.tree import Params


@dataclass(frozen=True)
class MetaGradient:
    """What an estimator returns; no tensor in it is part of a living graph.

    Attributes:
        gradient: the estimate, keyed, shaped and typed as the parameters.
        outer_loss: scalar, the outer loss at the adapted parameters.
        adapted: the adapted parameters phi_K.
        hvps: Hessian-vector products taken, those of back-propagation through the inner loop
            included.
        serial_depth: how many of them had to wait for one another.
    """

    gradient: Params
    outer_loss: Tensor
    adapted: Params
    hvps: int
    serial_depth: int


class Estimator(ABC):
    """Estimates the meta-gradient d outer_loss(phi_K) / d theta.

    Subclasses are frozen dataclasses whose fields are the options; they implement `estimate`.
    """

    @abstractmethod
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """Computes the estimate; gradients are enabled and `params` are detached here."""

    def misfit(self, steps: int) -> str | None:
        """Tells why the estimator cannot work at depth `steps`; None when it can."""
        del steps
        return None

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params | None:
        """Returns the exact gradient of the objective that the estimator itself follows.

        None, the default, when that objective is the outer loss after K inner steps.

        Args:
            problem: the bilevel problem.
            params: theta.
        """
        del problem, params
        return None

    def __call__(self, problem: BilevelProblem, params: Mapping[str, Tensor]) -> MetaGradient:
        """Estimates the meta-gradient at `params`, which are left as they are, `.grad` too.

        Args:
            problem: the bilevel problem.
            params: theta; floating-point tensors by name.

        Returns:
            The estimate and what comes with it.

        Raises:
            OptionError: the estimator does not fit the problem's depth.
        """
        reason = self.misfit(problem.steps)
        if reason:
            raise OptionError(reason)
        with torch.enable_grad():
            return self.estimate(problem, {name: value.detach() for name, value in params.items()})


def check_order(name: str, order: int) -> None:
    """Refuses an order below zero.

    Args:
        name: the estimator's name, for the message.
        order: L.

    Raises:
        OptionError: the order is negative.
    """
    if order < 0:
        raise OptionError(f"{name}: order={order} is outside 0..K (K is the depth)")


def order_misfit(name: str, order: int, steps: int) -> str | None:
    """Tells that an order exceeds the depth; None when it does not."""
    if order > steps:
        return f"{name}: order={order} is outside 0..{steps} (the depth is {steps})"
    return None
