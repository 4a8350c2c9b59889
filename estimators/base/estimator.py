"""The interface of an estimator, its result and its cost."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from estimators.base.attention import trainable_attention
from estimators.base.errors import OptionError
from estimators.base.map_problem import MapProblem
from estimators.base.problem import BilevelProblem
from estimators.base.problem_check import check_problem
from estimators.base.tree import Params, detached

_OF_GRADIENT_DESCENT = {"engine": "auto", "batching": "auto", "compiled": False}


@dataclass(frozen=True)
class MetaGradient:
    """The result of an estimate; no tensor in it is part of an autograd graph.

    Attributes:
        gradient: the estimate, keyed, shaped and typed as the parameters.
        outer_loss: scalar, the outer loss at the adapted parameters.
        adapted: the adapted parameters phi_K.
        hvps: Hessian-vector products taken, those of back-propagation through the inner loop
            included.
        serial_depth: number of those that had to wait for one another.
        step_size_gradient: the estimate with respect to the step sizes, keyed and shaped as
            these; None where the step size is one number.
    """

    gradient: Params
    outer_loss: Tensor
    adapted: Params
    hvps: int
    serial_depth: int
    step_size_gradient: Params | None = None


@dataclass(frozen=True)
class Cost:
    """What one estimate costs, in operations: the cost model of docs/performance.md.

    That of a random estimator is the expectation over its draws.

    Attributes:
        gradients: gradients of the inner or the outer loss taken at least, with one for each
            graph that is built only for products; products at one point share that graph. NaN
            where it depends on the model.
        hvps: Hessian-vector products; at most, where a solver may stop early.
        serial_depth: number of those that have to wait for one another; likewise.
    """

    gradients: float
    hvps: float
    serial_depth: float

    def in_gradients(self, hvps: float | None = None) -> float:
        """Return the cost in inner gradients: a product costs two, whatever its engine.

        The outer gradient is taken for an inner one, as where query and support set are of one
        size. The textbook count takes three for every product and is more than is needed.

        Args:
            hvps: products that were counted; `self.hvps` unless given.

        Example:
            >>> Cost(gradients=6, hvps=5, serial_depth=5).in_gradients()  # maml at K=5: 3K+1
            16
        """
        return self.gradients + 2 * (self.hvps if hvps is None else hvps)


@dataclass(frozen=True)
class Assumption(ABC):
    """What is known of every Hessian H_k of the inner loss along the descent.

    Attributes:
        smoothness: H, the inner gradient's Lipschitz constant: ||H_k|| <= H.

    Raises:
        OptionError: the smoothness is negative or not finite.
    """

    smoothness: float

    def __post_init__(self) -> None:
        if not 0 <= self.smoothness < inf:
            raise OptionError(f"smoothness={self.smoothness} must be 0 or more, and finite")

    @abstractmethod
    def jacobian_norm(self, step_size: float) -> float:
        """Return rho, the least number that ||A_k|| = ||I - alpha H_k|| cannot exceed.

        Args:
            step_size: alpha.

        Raises:
            OptionError: the step size is not one that the assumption allows.
        """


class Estimator(ABC):
    """Estimates the meta-gradient d outer_loss(phi_K) / d theta.

    Subclasses are frozen dataclasses whose fields are the options; they implement `estimate`, or
    `draw` of `RandomEstimator`. `cost` and `error_bound` hold for what they were written for: a
    class that overrides `estimate` or `draw` inherits neither.

    Attributes:
        is_random: whether the estimate depends on random draws; see `RandomEstimator`.
        supports_momentum: whether the derivation holds for momentum and for step sizes by
            parameter; where it does not, a call on such a problem is refused.
        supports_maps: whether it holds for any differentiable inner step, see `MapProblem`;
            likewise.
    """

    is_random: ClassVar[bool] = False
    supports_momentum: ClassVar[bool] = False
    supports_maps: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if {"estimate", "draw"} & vars(cls).keys():
            for name in ("cost", "error_bound"):
                if name not in vars(cls):
                    setattr(cls, name, vars(Estimator)[name])

    def __post_init__(self) -> None:  # ruff: ignore[empty-method-without-abstract-decorator]
        """Check the options: none here, and whatever subclasses add."""

    @property
    def title(self) -> str:
        """The name in messages: BinomReleased is binom-released."""
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
        """Compute the estimate; gradients are enabled, and `params` are detached."""

    def unsupported_reason(self, steps: int) -> str | None:
        """Return why the estimator cannot work at depth `steps`; None when it can."""
        del steps
        return None

    def cost(self, steps: int) -> Cost | None:
        """Return the cost of one estimate at depth `steps`; None if unknown.

        Args:
            steps: K, a depth that `unsupported_reason` does not name.
        """
        del steps
        return None

    def error_bound(self, assumption: Assumption, step_size: float, steps: int) -> float | None:
        """Return the most that ||estimate - exact|| / ||g|| can be; None where nothing is known.

        g is the outer gradient at phi_K; the inner loop is plain gradient descent.

        Args:
            assumption: what is known of the inner Hessians; see `estimators.bounds`.
            step_size: alpha > 0.
            steps: K, a depth that `unsupported_reason` does not name.

        Raises:
            OptionError: the step size is not one that the assumption allows.
        """
        del assumption, step_size, steps
        return None

    def own_exact_gradient(self, problem: BilevelProblem, params: Params) -> Params | None:
        """Return the exact gradient of the objective that the estimator itself follows.

        None, the default, when that objective is the outer loss after K inner steps.

        Args:
            problem: the bilevel problem.
            params: theta.
        """
        del problem, params
        return None

    def __call__(
        self,
        problem: BilevelProblem,
        params: Mapping[str, Tensor],
        *,
        generator: torch.Generator | None = None,
    ) -> MetaGradient:
        """Estimate the meta-gradient at `params`; these and their `.grad` are not changed.

        Args:
            problem: the bilevel problem.
            params: theta; floating-point tensors by name.
            generator: what a random estimator draws from; of any device, on which it draws. None
                is torch's default one of the parameters' device. Others do not look at it.

        Raises:
            OptionError: the estimator does not support the problem's depth or its inner loop; the
                parameters are not those of the problem; or its check has found something, see
                `module_problem`.
        """
        check_problem(problem, params)
        reason = self.unsupported_reason(problem.steps)
        if reason:
            raise OptionError(reason)
        self._refuse_unsupported_descent(problem)
        if isinstance(problem.step_size, dict):
            _check_step_sizes(problem.step_size, params)
            problem = replace(problem, step_size=detached(problem.step_size))
        theta = detached(params)
        # Theta, or what is frozen of it, is returned as adapted: not in the caller's memory.
        if not problem.steps or isinstance(problem, MapProblem):
            theta = {name: value.clone() for name, value in theta.items()}
        cached = torch.is_autocast_cache_enabled()
        # Autocast would hold the weights of every iterate until its block ends.
        torch.set_autocast_cache_enabled(False)
        try:
            with torch.enable_grad(), trainable_attention():  # here once, not at each evaluation
                result = self._run(problem, theta, generator)
        finally:
            torch.set_autocast_cache_enabled(cached)
        if isinstance(problem, MapProblem):
            gradient, adapted = map(problem.without_auxiliary, (result.gradient, result.adapted))
            return replace(result, gradient=gradient, adapted=adapted)
        return result

    def _refuse_unsupported_descent(self, problem: BilevelProblem) -> None:
        if isinstance(problem, MapProblem):
            self.refuse_unsupported_map()
        elif not problem.plain and not self.supports_momentum:
            feature = "momentum" if problem.momentum else "a step size for each parameter"
            raise OptionError(
                f"{self.title} is derived for plain gradient descent with one step size, not for "
                f"{feature}; use maml, adjoint, truncated or fomaml"
            )

    def refuse_unsupported_map(self) -> None:
        """Refuse inner maps that the estimator or an option of it is not made for.

        Raises:
            OptionError: it takes none, or an option is of gradient descent.
        """
        if not self.supports_maps:
            raise OptionError(
                f"{self.title} is derived for gradient descent on all parameters, not for other "
                "inner maps or frozen parameters; use maml, adjoint, truncated, fomaml, binom or "
                "mixed"
            )
        for option, usual in _OF_GRADIENT_DESCENT.items():
            chosen = getattr(self, option, usual)
            if chosen != usual:
                raise OptionError(
                    f"{self.title}: {option}={chosen!r} is for gradient descent on all parameters; "
                    "leave it out for other inner maps or frozen parameters"
                )

    def _run(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        del generator
        return self.estimate(problem, params)


def _check_step_sizes(sizes: Params, params: Mapping[str, Tensor]) -> None:
    unmatched = sorted(sizes.keys() ^ params.keys())
    if unmatched:
        raise OptionError(f"step_size must have a tensor for each parameter; see {unmatched[0]!r}")
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
