"""Runs the checks on an estimator, and scores it."""

import warnings
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import torch

from estimators import MetaGradient, OptionError, Params, create
from harness.conformance.cases import SYNTHETIC, TASKS, case
from harness.conformance.check import Check
from harness.conformance.messages import NotApplicable, told
from harness.conformance.subject import Subject
from harness.probes.bias import cosine_distance, relative_error


class Verdict(StrEnum):
    """How a check can end."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """How one check ended.

    Attributes:
        check: its name.
        about: what is right, in one line.
        verdict: how it ended.
        reason: one line for people; empty where it passed.
    """

    check: str
    about: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Score:
    """How far an estimator is from the exact float64 meta-gradient on one case.

    Attributes:
        case: its name.
        depth: K.
        error: relative; None where there is no estimate.
        cosine_distance: 1 - cos of the angle between the two.
        single_error: relative, of the estimate in float32; None where there is none.
        own_error: relative, against the exact gradient of its own objective if it has one.
        hvps: Hessian-vector products taken.
        serial_depth: how many of them had to wait for one another.
        reason: why there is no estimate.
    """

    case: str
    depth: int
    error: float | None = None
    cosine_distance: float | None = None
    single_error: float | None = None
    own_error: float | None = None
    hvps: int = 0
    serial_depth: int = 0
    reason: str = ""


def examine(subject: Subject, check: Check) -> Finding:
    """Make one check; whatever the estimator raises ends it, not the caller."""
    try:
        # An estimator may leave the grad mode changed, which is found out elsewhere.
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            check.run(subject)
    except NotApplicable as reason:
        verdict, text = Verdict.NOT_APPLICABLE, told(reason, subject.estimator)
    except (Exception, SystemExit) as error:
        verdict, text = Verdict.FAILED, told(error, subject.estimator)
    else:
        verdict, text = Verdict.PASSED, ""
    return Finding(check.name, check.about, verdict, text)


def scored_on(subject: Subject) -> tuple[str, ...]:
    """Return the names of the cases on which an estimator is scored."""
    return subject.names if subject.compiled else SYNTHETIC + TASKS


def score(subject: Subject, name: str) -> Score:
    """Score an estimator on one case, at its depth."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        end = subject.tried(name)
        if not isinstance(end, MetaGradient):
            text = f"it refuses: {end}" if isinstance(end, OptionError) else "it fails"
            return Score(name, subject.depth, reason=text)
        found = case(name)
        exact, own = _exact(name, subject.depth), None
        try:
            own = subject.prepared(name).own_exact_gradient(
                found.problem(subject.depth), found.params
            )
        except (Exception, SystemExit):  # there is a check for it
            own = None
        return Score(
            name,
            subject.depth,
            error=relative_error(end.gradient, exact),
            cosine_distance=cosine_distance(end.gradient, exact),
            single_error=_single_error(subject, name, exact),
            own_error=None if own is None else relative_error(end.gradient, own),
            hvps=end.hvps,
            serial_depth=end.serial_depth,
        )


def _single_error(subject: Subject, name: str, exact: Params) -> float | None:
    try:
        rough = subject.run(case(name, torch.float32)).gradient
    except (Exception, SystemExit):  # there is a check for it
        return None
    return relative_error({key: value.double() for key, value in rough.items()}, exact)


@cache
def _exact(name: str, depth: int) -> Params:
    found = case(name)
    return create("adjoint(engine='reverse')")(found.problem(depth), found.params).gradient
