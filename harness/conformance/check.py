"""The type of a check, and the table of all checks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps

from harness.conformance.cases import Case, case
from harness.conformance.messages import NotApplicable, Violation, error_line
from harness.conformance.subject import Subject

Body = Callable[[Subject], None]
CaseBody = Callable[[Subject, Case], None]


@dataclass(frozen=True)
class Check:
    """A rule for every estimator, in one line for people, and how to check it."""

    name: str
    about: str
    run: Body = field(repr=False, compare=False)


CHECKS: dict[str, Check] = {}
"""Every check by its name, in the order in which they run."""


def check(body: Body) -> Body:
    """Make a function a check; the first line of its docstring is what people see."""
    name = body.__name__.replace("_", "-")
    assert body.__doc__, name
    CHECKS[name] = Check(name, body.__doc__.splitlines()[0].rstrip("."), body)
    return body


def check_on_cases(*only: str) -> Callable[[CaseBody], CaseBody]:
    """Make a function of an estimator and a case a check on all cases."""

    def decorate(body: CaseBody) -> CaseBody:
        check(wraps(body)(lambda subject: on_each(subject, subject.cases(*only), body)))
        return body

    return decorate


def on_each(subject: Subject, names: Iterable[str], body: CaseBody) -> None:
    """Run a check on each of some cases, and report all failures at once."""
    failures: dict[str, list[str]] = {}
    passes: dict[str, list[str]] = {}
    names = list(names)
    for name in names:
        try:
            body(subject, case(name))
        except NotApplicable as not_here:
            passes.setdefault(error_line(not_here, subject.estimator), []).append(name)
        except (Exception, SystemExit) as error:
            failures.setdefault(error_line(error, subject.estimator), []).append(name)
        else:
            passes.setdefault("", []).append(name)
    if failures:
        (reason, where), *others = failures.items()
        also = [name for _, names in others for name in names]
        rest = f"; {_listed(also)} {'fails' if len(also) == 1 else 'fail'} as well" if also else ""
        everywhere = len(where) == len(names) > 2
        raise Violation(f"{'everywhere' if everywhere else f'on {_listed(where)}'}: {reason}{rest}")
    if "" not in passes:
        raise NotApplicable(next(iter(passes)))


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
