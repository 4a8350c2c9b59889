"""Binomial estimator whose coefficients are fitted to exact meta-gradients of probe tasks."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient, Ordered
from estimators.base.problem import BilevelProblem
from estimators.base.problem_check import check_problem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy
from estimators.methods.backpropagation import adapt, through_iterates
from estimators.methods.calibration import Calibration, Probe, fit
from estimators.methods.cascade import elementary_sums
from estimators.methods.options import Compilable, TakesProducts
from estimators.programs.compiled import Points


@dataclass
class _State:
    """The mutable state of an estimator, which is a value otherwise."""

    calibration: Calibration | None = None
    calls: int = 0

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "_State":
        fields, calls = state["calibration"], state["calls"]
        if not isinstance(calls, int) or calls < 0:
            raise ValueError(f"calls={calls!r}")
        return cls(None if fields is None else Calibration.from_dict(fields), calls)


@register("binom-calibrated")
@dataclass(frozen=True)
class BinomCalibrated(Ordered, TakesProducts, Compilable):
    """g + sum_{l=1..L} c_l e_l, e_l = sum_{k_1<...<k_l} (-alpha)^l H_{k_1} ... H_{k_l} g.

    Eq. 8 of `binom` has c_l = 1: a Taylor polynomial of the product, poor once alpha lambda_max
    nears 1. Here the L scalars are fitted by least squares to the exact meta-gradients of probe
    problems, each in units of its exact meta-gradient's norm, and refitted now and then. Where
    the fit is ill-conditioned or, on probes left out of it, no better than Eq. 8 or `fomaml`,
    the best of those is taken and a warning says so. Before the first fit c_l = 1.
    Cost: K+1 inner gradients and L(K-L) + L(L+1)/2 HVPs, of which L must follow one another; a
    fit costs as much, and K HVPs more, for each probe.

    Attributes:
        order: L, 0 <= L <= K.
        probes: number of problems that a fit should have; it takes any number.
        refit_every: number of calls after which `needs_calibration` is true again; a meta-batch
            that is taken at once is one call.

    Source: this project's own.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=2)
        >>> theta, calibrated = {"w": torch.ones(1)}, create("binom-calibrated(order=1)")
        >>> calibrated.calibrate([problem], theta)
        >>> calibrated(problem, theta).gradient["w"]  # one parameter: the fit is exact
        tensor([0.0625])
    """

    probes: int = 16
    refit_every: int = 400
    _state: _State = field(default_factory=_State, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("probes", "refit_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"binom-calibrated: {name} must be 1 or more")

    @property
    def calibration_problems(self) -> int:
        """See `Estimator.calibration_problems`."""
        return self.probes

    @property
    def calibration(self) -> Calibration | None:
        """The newest fit; None before the first."""
        return self._state.calibration

    @property
    def needs_calibration(self) -> bool:
        """See `Estimator.needs_calibration`."""
        state = self._state
        return self.order > 0 and (state.calibration is None or state.calls >= self.refit_every)

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        order = self.order
        hvps = order * (steps - order) + order * (order + 1) // 2
        return Cost(steps + 1 + (self.graphs(steps) if order else 0), hvps, order)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, order = problem.steps, self.order
        self._state.calls += 1
        points, adapted, outer_loss, gradient = adapt(problem, params)
        for weight, level in zip(
            self._coefficients(), self._sums(problem, points, gradient), strict=True
        ):
            gradient = axpy(weight, level, gradient)
        hvps = order * (steps - order) + order * (order + 1) // 2
        return MetaGradient(gradient, outer_loss, adapted, hvps, order)

    def calibrate(self, problems: Sequence[BilevelProblem], params: Params) -> None:
        """Fit the coefficients at `params`; `calibration` has the result.

        Args:
            problems: one or more, `probes` of them or more if possible.
            params: theta.

        Raises:
            OptionError: no problem has a finite exact meta-gradient other than zero, the order does
                not fit their depth, or a call on one of them would be refused.
        """
        if not self.order:
            return
        with torch.enable_grad():
            probes = self._probes(problems, params)
        if not probes:
            raise OptionError(
                "binom-calibrated: no probe has a finite meta-gradient other than zero"
            )
        calibration = fit(probes, self.order)
        if calibration.fell_back:
            warnings.warn(
                f"binom-calibrated: {calibration.fell_back}; these are used", stacklevel=2
            )
        self._state.calibration, self._state.calls = calibration, 0

    def _probes(self, problems: Sequence[BilevelProblem], params: Params) -> list[Probe]:
        probes: list[Probe] = []
        for problem in problems:
            check_problem(problem, params)
            reason = self.unsupported_reason(problem.steps)
            if reason:
                raise OptionError(reason)
            self._refuse_unsupported_descent(problem)
            points, _, _, g = adapt(problem, params)
            sums = self._sums(problem, points, g)
            exact = through_iterates(problem, points, g, engine="reverse")
            probes += [probe for probe in [Probe.of(sums, g, exact)] if probe]
        return probes

    def state_dict(self) -> dict[str, Any]:
        """Return the calibration and the calls since, as plain data for JSON or torch.save."""
        fitted = self._state.calibration
        return {"calibration": fitted and fitted.as_dict(), "calls": self._state.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Args:
            state: of an estimator of the same order.

        Raises:
            OptionError: the state is of another order, or no state at all.
        """
        try:
            saved = _State.from_dict(state)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise OptionError(f"binom-calibrated: not a saved state: {error!r}") from None
        fitted = saved.calibration
        if fitted and len(fitted.coefficients) != self.order:
            raise OptionError(
                f"binom-calibrated: the state has order {len(fitted.coefficients)}, "
                f"not {self.order}"
            )
        self._state.calibration, self._state.calls = fitted, saved.calls

    def _coefficients(self) -> tuple[float, ...]:
        fitted = self._state.calibration
        return fitted.coefficients if fitted else (1.0,) * self.order

    def _sums(self, problem: BilevelProblem, points: Points, g: Params) -> list[Params]:
        return elementary_sums(problem, points, g, self.order, engine=self.engine_for(g))
