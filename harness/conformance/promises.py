"""Checks of an estimator's own statements, and of the problems that it must refuse."""

from collections.abc import Callable

import torch
from torch import Tensor

from estimators import BilevelProblem, OptionError, Params
from estimators.base.differentiation import Loss
from estimators.base.registry import ESTIMATORS
from estimators.base.tree import stack, unstack
from harness.conformance.answers import descent
from harness.conformance.cases import TASKS, Case, case
from harness.conformance.check import check, check_on_cases, on_each
from harness.conformance.messages import NotApplicable, Violation, add_note, error_line
from harness.conformance.subject import Subject, check_finite, copied
from harness.probes.bias import relative_error


@check
def estimator_is_a_value(subject: Subject) -> None:
    """It is frozen, hashable, and equal to another of the same specification."""
    one, other = subject.create(), subject.create()
    options = vars(type(one)).get("__dataclass_params__")  # not those of a base class
    if options is None or not options.frozen:
        wrong = "no dataclass" if options is None else "not frozen"
        raise Violation(f"its class is {wrong}: put @dataclass(frozen=True) above it")
    if one != other:
        raise Violation("two made from one specification are not equal; fields must be options")
    try:
        same = hash(one) == hash(other)
    except TypeError as error:
        raise Violation(f"it cannot be hashed: {error}; options must be hashable") from error
    if not same:
        raise Violation("two made from one specification have different hashes")


@check
def specification_is_canonical(subject: Subject) -> None:
    """Its canonical specification makes the same estimator."""
    try:
        again = ESTIMATORS.canonical(subject.spec)
        created = ESTIMATORS.create(subject.spec)
    except OptionError as error:
        raise Violation(
            f"it is {subject.spec}, and cannot be read back: {error}; let options be numbers, "
            "strings, booleans, None, or tuples of those"
        ) from error
    if again != subject.spec:
        raise Violation(f"{subject.spec} reads back as {again}")
    if created != subject.estimator and subject.create() == subject.estimator:
        raise Violation(f"{subject.spec} makes {created}, and {subject.text} {subject.estimator}")


@check
def unsupported_reason_is_true(subject: Subject) -> None:
    """It works at all depths but those that unsupported_reason() names, and refuses these."""
    (name, *_) = subject.cases()
    example = case(name)
    depths = subject.depths if subject.compiled else range(7)
    for steps in depths:
        reason = subject.estimator.unsupported_reason(steps)
        stated = f"unsupported_reason({steps}) is {reason!r}"
        if reason is not None and not (isinstance(reason, str) and reason):
            raise Violation(f"{stated}; it must be None or tell the reason")
        try:
            subject.run(example, example.problem(steps))
        except (Exception, SystemExit) as error:
            if not reason:
                message = f"{stated}, but at that depth: {error_line(error, subject.estimator)}"
                raise Violation(message) from error
            if not isinstance(error, OptionError):
                raise
        else:
            if reason:
                raise Violation(f"{stated}, but a call is not refused")


@check
def loss_that_is_no_scalar_is_refused(subject: Subject) -> None:
    """A loss that is no scalar is refused (OptionError)."""

    def scalar(params: Params) -> Tensor:
        return params["w"].square().sum()

    for shape in ((1,), (3,)):

        def vector(params: Params, shape: tuple[int, ...] = shape) -> Tensor:
            return scalar(params).expand(shape)

        for which, losses in (("inner", (vector, scalar)), ("outer", (scalar, vector))):
            what = f"an {which} loss of shape {shape}"
            _must_refuse(subject, (scalar, scalar), losses, what)


@check
def inner_loss_without_gradient_is_refused(subject: Subject) -> None:
    """An inner loss that ignores the parameters is refused (OptionError)."""
    if subject.compiled:
        raise NotApplicable("it is compiled; traced tensors do not show it")

    def outer(params: Params) -> Tensor:
        return params["w"].square().sum()

    def inner(params: Params) -> Tensor:
        return outer(params).detach()

    _must_refuse(subject, (outer, outer), (inner, outer), "a detached inner loss")


def _must_refuse(
    subject: Subject, right: tuple[Loss, Loss], wrong: tuple[Loss, Loss], what: str
) -> None:
    params = {"w": torch.ones(2, dtype=torch.float32, device="cpu")}
    how = "estimators.base.differentiation.value_and_gradient refuses it"
    estimator = subject.create()
    try:
        good, bad = (BilevelProblem(*losses, 0.01, subject.depth) for losses in (right, wrong))
        estimator(good, copied(params))
    except (Exception, SystemExit) as error:
        end = error_line(error, subject.estimator)
        raise NotApplicable(f"with sound losses it ends no better: {end}") from error
    try:
        estimator(bad, copied(params))
    except OptionError:
        return
    except (Exception, SystemExit) as error:
        end = error_line(error, subject.estimator)
        raise Violation(f"{what} ends in no OptionError, but in {end}; {how}") from error
    raise Violation(f"{what} is taken; {how}")


@check_on_cases("mlp", "uneven")
def descent_is_followed_or_refused(subject: Subject, example: Case) -> None:
    """Momentum and step sizes by parameter are followed or refused (OptionError)."""
    if subject.compiled:
        raise NotApplicable("it is compiled; each inner loop would be another program")
    if example.like:
        raise NotApplicable("the case is more than gradient descent on all parameters")
    sizes = {k: torch.full_like(v, example.step_size * 0.8) for k, v in example.params.items()}
    own = subject.has_own_objective(example)
    for what, problem in (
        ("momentum", example.problem(subject.depth, momentum=0.5)),
        ("a step size for each parameter", example.problem(subject.depth, step_size=sizes)),
        ("both", example.problem(subject.depth, step_size=copied(sizes), momentum=0.5)),
    ):
        try:
            with add_note(f"with {what}"):
                result = subject.run(example, problem)
        except OptionError:
            continue
        check_finite("gradient", result.gradient, f" with {what}")
        off = relative_error(result.adapted, descent(problem, example.params))
        if not own and not off < 1e-10:
            raise Violation(
                f"with {what}, the adapted parameters are {off:.1e} off those of that descent; "
                "problem.states(params) follows it. Or leave supports_momentum at False"
            )


@check_on_cases()
def stack_of_problems_is_a_problem(subject: Subject, example: Case) -> None:
    """If batchable: the estimate on a stack of problems is the stack of estimates."""
    estimator = subject.estimator
    if not estimator.batchable:
        raise NotApplicable("batchable is False")
    pair = (example, case(example.name, draw=1))
    inner, outer = ([getattr(c, which) for c in pair] for which in ("inner_loss", "outer_loss"))
    both = BilevelProblem(_summed(inner), _summed(outer), example.step_size, subject.depth)
    together = estimator(both, stack([c.params for c in pair])).gradient
    for one, estimate in zip(pair, unstack(together), strict=True):
        off = relative_error(estimate, subject.run(one).gradient)
        if off > 1e-8:
            raise Violation(
                f"they are {off:.1e} apart (relative): something depends on both problems, as a "
                "norm does; leave batchable at False"
            )


def _summed(losses: list[Loss]) -> Callable[[Params], Tensor]:
    def total(stacked: Params) -> Tensor:
        rows = zip(losses, unstack(stacked), strict=True)
        return torch.stack([loss(params) for loss, params in rows]).sum()

    return total


@check
def tasks_of_the_harness_work(subject: Subject) -> None:
    """It works on the tasks of the harness, in float32."""
    if subject.compiled:
        raise NotApplicable("it is compiled, which would take minutes here")

    def body(subject: Subject, example: Case) -> None:
        single = case(example.name, torch.float32)
        try:
            result = subject.run(single)
        except OptionError as reason:
            raise NotApplicable(f"it refuses: {reason}") from reason
        check_finite("gradient", result.gradient)

    on_each(subject, TASKS, body)
