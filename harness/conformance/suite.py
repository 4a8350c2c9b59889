"""Checks on an estimator and its scores, here and in worker processes."""

import math
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

import torch

from estimators import MetaGradient, OptionError, Params
from harness.conformance.cases import SYNTHETIC, TASKS, case, exact_gradient
from harness.conformance.check import CHECKS, Check
from harness.conformance.messages import NotApplicable, error_line
from harness.conformance.subject import DEEPEST, Subject
from harness.matrix.outcome import Status
from harness.probes.bias import cosine_distance, relative_error
from harness.running.processes import Limits, run_in_worker, worker_memory
from harness.support.plugins import load_plugins

_DRAWS = 8  # of a random estimator, on which it is scored


class Verdict(StrEnum):
    """The result of a check in a word."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """The result of one check; `reason` is one line for people, empty where it passed."""

    check: str
    about: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Score:
    """How far an estimator is from the exact float64 meta-gradient on one case.

    Errors are relative: of the estimate, of that in float32, and against the exact gradient of the
    estimator's own objective if it has one. Without an estimate there is a reason. The error of a
    random estimator is the root of the mean square over draws, and products are means.
    """

    case: str
    depth: int
    error: float | None = None
    cosine_distance: float | None = None
    single_error: float | None = None
    own_error: float | None = None
    hvps: float = 0
    serial_depth: float = 0
    reason: str = ""
    draws: int = 1


def examine(subject: Subject, check: Check) -> Finding:
    """Run one check; whatever the estimator raises is its result."""
    try:
        # An estimator may leave the grad mode changed, for which there is a check.
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            check.run(subject)
    except NotApplicable as reason:
        verdict, text = Verdict.NOT_APPLICABLE, error_line(reason, subject.estimator)
    except (Exception, SystemExit) as error:
        verdict, text = Verdict.FAILED, error_line(error, subject.estimator)
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
        end = subject.result(name)
        if not isinstance(end, MetaGradient):
            text = f"it refuses: {end}" if isinstance(end, OptionError) else "it fails"
            return Score(name, subject.depth, reason=text)
        example, exact, own = case(name), exact_gradient(name, subject.depth), None
        if subject.estimator.is_random:
            return _score_of_draws(subject, name, exact)
        problem = example.problem(subject.depth)
        with suppress(Exception, SystemExit):  # there is a check for it
            own = subject.estimator.own_exact_gradient(problem, example.params)
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


def _score_of_draws(subject: Subject, name: str, exact: Params) -> Score:
    results = [subject.run(case(name), seed=seed) for seed in range(_DRAWS)]
    errors = [relative_error(result.gradient, exact) for result in results]
    return Score(
        name,
        subject.depth,
        error=math.sqrt(fmean(error**2 for error in errors)),
        cosine_distance=fmean(cosine_distance(result.gradient, exact) for result in results),
        hvps=fmean(result.hvps for result in results),
        serial_depth=fmean(result.serial_depth for result in results),
        draws=_DRAWS,
    )


def _single_error(subject: Subject, name: str, exact: Params) -> float | None:
    try:
        rough = subject.run(case(name, torch.float32)).gradient
    except (Exception, SystemExit):  # there is a check for it
        return None
    return relative_error({key: value.double() for key, value in rough.items()}, exact)


class Suite:
    """The checks and scores of an estimator, each in a worker process, in the order of `steps`.

    An estimator that crashes or hangs ends its worker only.
    """

    def __init__(
        self,
        text: str,
        plugins: tuple[str, ...] = (),
        time_limit: float = 300.0,
        *,
        check: bool = True,
    ) -> None:
        self.plugins = load_plugins(plugins)
        subject = Subject(text)
        if all(subject.estimator.unsupported_reason(steps) for steps in range(DEEPEST + 1)):
            raise OptionError(str(subject.estimator.unsupported_reason(DEEPEST)))
        self.text, self.time_limit, self.check = text, time_limit, check
        self.spec = subject.spec
        self.cases = scored_on(subject)

    @property
    def steps(self) -> list[str]:
        """Names of the checks and scores, for a progress bar."""
        return [
            *(name.replace("-", " ") for name in CHECKS),
            *(f"score on {c}" for c in self.cases),
        ]

    def run(self) -> Iterator[Finding | Score]:
        """Yield each finding, then each score, as soon as it is known.

        In place of a score there is a finding where the case is refused.

        Where the first check ends its process the others would too, and are not made.
        """
        limits = Limits(self.time_limit, worker_memory(jobs=1))
        dead = ""
        for index, (name, check) in enumerate(CHECKS.items()):
            if dead:
                yield Finding(name, check.about, Verdict.NOT_APPLICABLE, dead)
                continue
            result = run_in_worker(_examine, self.text, name, limits=limits, plugins=self.plugins)
            if result.outcome.status is Status.OK:
                yield result.value
            else:
                yield Finding(name, check.about, Verdict.FAILED, result.outcome.reason)
                dead = "the first check did not come to its end" if index == 0 else ""
        for name in self.cases:
            if dead:
                yield Score(name, 0, reason=dead)
                continue
            work = _score, self.text, name, self.check
            result = run_in_worker(*work, limits=limits, plugins=self.plugins)
            yield result.value or Score(name, 0, reason=result.outcome.reason)


def _examine(text: str, name: str) -> Finding:
    return examine(Subject(text), CHECKS[name])


def _score(text: str, name: str, check: bool) -> Score | Finding:
    try:
        case(name, check=check)
    except OptionError as error:
        about = f"Estimates on {name} would be right, if the estimator is"
        return Finding("problem", about, Verdict.FAILED, str(error))
    return score(Subject(text), name)
