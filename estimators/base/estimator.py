"""The contract of an estimator, and what a call returns."""

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from estimators.base.errors import OptionError
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params, detached


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
        step_size_gradient: the estimate with respect to the step sizes, keyed and shaped as
            these; None where the step size is one number.
    """

    gradient: Params
    outer_loss: Tensor
    adapted: Params
    hvps: int
    serial_depth: int
    step_size_gradient: Params | None = None


class Estimator(ABC):
    """Estimates the meta-gradient d outer_loss(phi_K) / d theta.

    Subclasses are frozen dataclasses whose fields are the options; they implement `estimate`.

    Attributes:
        supports_momentum: whether the derivation holds for momentum and for step sizes by
            parameter; where it does not, a call on such a problem is refused.
    """

    supports_momentum: ClassVar[bool] = False

    def __post_init__(self) -> None:  # ruff: ignore[empty-method-without-abstract-decorator]
        """Checks the options: none here, and whatever subclasses add."""

    @property
    def title(self) -> str:
        """What messages call the estimator: BinomReleased is binom-released."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    @property
    def batchable(self) -> bool:
        """Whether the estimate on a stack of independent problems is the stack of the estimates.

        It is where vectors are only added, scaled by constants and multiplied by Hessians; then
        a meta-batch can be estimated in one call.
        """
        return False

    @abstractmethod
    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """Computes the estimate; gradients are enabled and `params` are detached here."""

    def unsupported_reason(self, steps: int) -> str | None:
        """Tells why the estimator cannot work at depth `steps`; None when it can."""
        del steps
        return None

    @property
    def calibration_problems(self) -> int:
        """How many problems `calibrate` wants; 0 where there is nothing to calibrate."""
        return 0

    @property
    def needs_calibration(self) -> bool:
        """Whether it is time to `calibrate`."""
        return False

    def calibrate(self, problems: Sequence[BilevelProblem], params: Params) -> None:
        """Fits what the estimator has to fit to probe problems at `params`; by default nothing.

        Args:
            problems: best `calibration_problems` or more, and others than those to be estimated.
            params: theta.
        """
        del problems, params

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
            OptionError: the estimator does not fit the problem's depth or its inner loop.
        """
        reason = self.unsupported_reason(problem.steps)
        if reason:
            raise OptionError(reason)
        self._refuse_other_descent(problem)
        if isinstance(problem.step_size, dict):
            _check_step_sizes(problem.step_size, params)
            problem = replace(problem, step_size=detached(problem.step_size))
        theta = detached(params)
        if not problem.steps:  # theta is what is returned as adapted: not in the caller's memory
            theta = {name: value.clone() for name, value in theta.items()}
        with torch.enable_grad(), _no_autocast_cache():
            return self._run(problem, theta)

    def _refuse_other_descent(self, problem: BilevelProblem) -> None:
        if not problem.plain and not self.supports_momentum:
            what = "momentum" if problem.momentum else "a step size for each parameter"
            raise OptionError(
                f"{self.title} is derived for plain gradient descent with one step size, not for "
                f"{what}; use maml, adjoint, truncated or fomaml"
            )

    def _run(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        return self.estimate(problem, params)


@contextmanager
def _no_autocast_cache() -> Generator[None]:
    """Keeps autocast from holding the weights of every iterate until its block ends."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def _check_step_sizes(sizes: Params, params: Mapping[str, Tensor]) -> None:
    odd = sorted(sizes.keys() ^ params.keys())
    if odd:
        raise OptionError(f"step_size must have a tensor for each parameter; see {odd[0]!r}")
    for name, value in params.items():
        if sizes[name].dtype != value.dtype:
            raise OptionError(
                f"step_size of {name!r} is {sizes[name].dtype}, the parameter {value.dtype}"
            )
        shape = sizes[name].shape
        behind = zip(reversed(shape), reversed(value.shape), strict=False)
        if len(shape) > value.dim() or any(one not in (1, other) for one, other in behind):
            raise OptionError(
                f"step_size of {name!r} has shape {tuple(shape)}, which does not broadcast to "
                f"that of the parameter, {tuple(value.shape)}"
            )


@dataclass(frozen=True)
class Ordered(Estimator):
    """An estimator of an order that its depth limits.

    Attributes:
        order: L, 0 <= L <= K.
    """

    order: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order < 0:
            raise OptionError(f"{self.title}: order={self.order} is outside 0..K (K is the depth)")

    def unsupported_reason(self, steps: int) -> str | None:
        """See `Estimator.unsupported_reason`."""
        if self.order > steps:
            return f"{self.title}: order={self.order} is outside 0..{steps} (the depth is {steps})"
        return None
