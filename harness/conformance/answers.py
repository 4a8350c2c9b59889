"""Checks of the result of a call."""

import math
from statistics import fmean

import torch
from torch import Tensor

from estimators import BilevelProblem, Cost, MetaGradient, OptionError, Params
from estimators.base.tree import norm
from estimators.hvp import count_hvps
from harness.conformance.cases import Case, case
from harness.conformance.check import check, check_on_cases, on_each
from harness.conformance.messages import NotApplicable, Violation, add_note
from harness.conformance.subject import (
    Subject,
    as_parameters,
    check_finite,
    check_tensors,
    copied,
    type_name,
)
from harness.probes.bias import relative_error

DTYPES = (torch.float64, torch.float32)
_DRAWS = 100


@check
def result_is_well_formed(subject: Subject) -> None:
    """A call returns a MetaGradient, keyed, shaped and typed as the parameters."""

    def body(subject: Subject, example: Case) -> None:
        end = subject.result(example.name)
        if isinstance(end, OptionError):
            raise NotApplicable(str(end))
        if not isinstance(end, MetaGradient):
            raise end
        for steps in subject.depths:
            for dtype in DTYPES:
                with add_note(f"at depth {steps} in {type_name(dtype)}"):
                    this = case(example.name, dtype)
                    subject.run(this, this.problem(steps))

    try:
        on_each(subject, subject.names, body)
    except NotApplicable as reason:
        raise Violation(f"it refuses every case, such as {subject.names[-1]}: {reason}") from reason


@check_on_cases()
def estimate_is_finite(subject: Subject, example: Case) -> None:
    """Estimate and adapted parameters are finite."""
    for steps in subject.depths:
        result = subject.run(example, example.problem(steps))
        for name in ("gradient", "adapted"):
            check_finite(name, getattr(result, name), f" at depth {steps}")


@check_on_cases()
def outer_loss_is_that_of_the_adapted(subject: Subject, example: Case) -> None:
    """The outer loss is the one at the adapted parameters."""
    for dtype in DTYPES:
        this = case(example.name, dtype)
        result = subject.run(this)
        wanted = this.outer_loss(copied(result.adapted))
        if result.outer_loss.dtype != wanted.dtype:
            names = type_name(result.outer_loss.dtype), type_name(wanted.dtype)
            raise Violation("outer_loss is {}, but the loss returns {}".format(*names))
        if not torch.isclose(result.outer_loss, wanted, rtol=1e-5, atol=1e-8, equal_nan=True):
            raise Violation(
                f"outer_loss is {float(result.outer_loss):.6g}, and "
                f"{float(wanted):.6g} at the adapted parameters"
            )


@check_on_cases()
def adapted_parameters_are_those_of_gradient_descent(subject: Subject, example: Case) -> None:
    """The adapted parameters are those of gradient descent."""
    if subject.has_own_objective(example):
        raise NotApplicable("it follows an objective of its own")
    if example.like:
        raise NotApplicable("its steps may be drawn, or are no gradient descent")
    for steps in subject.depths:
        problem = example.problem(steps)
        off = relative_error(
            subject.run(example, problem).adapted, descent(problem, example.params)
        )
        if not off < 1e-10:
            raise Violation(
                f"at depth {steps} they are {off:.1e} off those (relative); problem.adapt(params) "
                "returns them. An estimator with an objective of its own has own_exact_gradient()"
            )


@check_on_cases()
def single_precision_follows_double(subject: Subject, example: Case) -> None:
    """The estimate in float32 is that in float64, up to rounding."""
    fine = subject.run(example).gradient
    single = case(example.name, torch.float32)
    rough = subject.run(single).gradient
    if not math.isfinite(norm(fine)):
        raise NotApplicable("the estimate is not finite")
    off = relative_error({name: value.double() for name, value in rough.items()}, fine)
    if not off < 1e-3:
        raise Violation(f"it is {off:.1e} off (relative; 1e-3 would do)")


@check_on_cases("uneven")
def unused_parameter_has_no_gradient(subject: Subject, example: Case) -> None:
    """A parameter that no loss uses has gradient zero."""
    if subject.estimator.is_random:
        raise NotApplicable("it is random: that holds in the mean over draws")
    if "idle" not in example.params:
        raise NotApplicable("the case with such a parameter is refused")
    length = norm({"idle": subject.run(example).gradient["idle"]})
    if length != 0:
        raise Violation(f"it has length {length:.2g}")


@check_on_cases()
def products_are_reported(subject: Subject, example: Case) -> None:
    """It reports at least the Hessian-vector products that it is seen to take."""
    for steps in subject.depths:
        with count_hvps() as counter:
            result = subject.run(example, example.problem(steps))
        if result.hvps < counter.products:
            raise Violation(
                f"hvps={result.hvps} is reported and {counter.products} are taken at depth {steps}"
            )


@check
def cost_is_what_is_taken(subject: Subject) -> None:
    """If cost() is stated: its products and serial depth are those of the results, or the most.

    Those of a random estimator are the mean over draws.
    """
    cases = [case(name) for name in subject.cases("mlp", "uneven", "linear")]
    few = subject.compiled or subject.estimator.is_random
    depths = subject.depths if few else range(7)
    for steps in (k for k in depths if not subject.estimator.unsupported_reason(k)):
        cost = subject.estimator.cost(steps)
        if cost is None:
            raise NotApplicable("cost() is not stated")
        if subject.estimator.is_random:
            _check_mean_cost(subject, cases[0], cost, steps)
            continue
        results = [subject.run(example, example.problem(steps)) for example in cases]
        for what in ("hvps", "serial_depth"):
            stated, taken = getattr(cost, what), {getattr(result, what) for result in results}
            if max(taken) > stated or (len(taken) == 1 < len(cases) and {stated} != taken):
                most = "at most " if len(taken) > 1 else ""
                raise Violation(
                    f"cost({steps}).{what} is {stated!r}, and {most}{max(taken)} are reported"
                )


def _check_mean_cost(subject: Subject, example: Case, cost: Cost, steps: int) -> None:
    problem = example.problem(steps)
    results = [subject.run(example, problem, seed=seed) for seed in range(_DRAWS)]
    for what in ("hvps", "serial_depth"):
        stated, taken = getattr(cost, what), [getattr(result, what) for result in results]
        # The variance of what is between 0 and a most is at most that times the mean.
        off = 4 * math.sqrt(stated * max(stated, steps, *taken) / _DRAWS)
        mean = fmean(taken)
        if not abs(mean - stated) <= off + 1e-9:
            raise Violation(
                f"cost({steps}).{what} is {stated:.3g}, and {mean:.3g} are reported in the mean "
                f"of {_DRAWS} draws"
            )


@check_on_cases()
def own_exact_gradient_is_well_formed(subject: Subject, example: Case) -> None:
    """The exact gradient of its own objective is keyed and shaped as the parameters."""
    params = as_parameters(example)
    with torch.no_grad():
        own = subject.estimator.own_exact_gradient(example.problem(subject.depth), params)
    if own is None:
        raise NotApplicable("its objective is the outer loss after K steps")
    check_tensors("own_exact_gradient", own, params)
    for name, value in params.items():
        if own[name].requires_grad:
            raise Violation(f"own_exact_gradient[{name!r}] requires a gradient; detach it")
        if value.grad is not None:
            raise Violation(f"own_exact_gradient leaves a .grad on parameter {name!r}")


def descent(problem: BilevelProblem, params: Params) -> Params:
    """Return phi_K, by an inner loop that shares no code with the estimators'."""
    phi: dict[str, Tensor] = copied(params)
    velocity = {name: torch.zeros_like(value) for name, value in phi.items()}
    sizes = problem.step_size
    for _ in range(problem.steps):
        point = {name: value.requires_grad_() for name, value in phi.items()}
        with torch.enable_grad():
            loss = problem.inner_loss(point)
        slopes = torch.autograd.grad(loss, list(point.values()), materialize_grads=True)
        for (name, value), slope in zip(point.items(), slopes, strict=True):
            velocity[name] = problem.momentum * velocity[name] + slope
            size = sizes[name] if isinstance(sizes, dict) else sizes
            phi[name] = (value - size * velocity[name]).detach()
    return phi
