"""The type of a check, and the table of all checks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.conformance.cases import Case, case
from harness.conformance.messages import NotApplicable, Violation, error_line
from harness.conformance.subject import Subject

Body = Callable[[Subject], None]
CaseBody = Callable[[Subject, Case], None]


@dataclass(frozen=True)
class Check:
    """A rule for every estimator.

    Attributes:
        name: unique among checks.
        about: the rule, one line for people.
        run: raises `Violation` where it is not, and `NotApplicable` where it means nothing.
    """

    name: str
    about: str
    run: Body = field(repr=False, compare=False)


CHECKS: dict[str, Check] = {}
"""Every check by its name, in the order in which they run."""


def check(body: Body) -> Body:
    """Make a function a check; the first line of its docstring is what people see."""
    _add(body.__name__, body.__doc__, body)
    return body


def check_on_cases(*only: str) -> Callable[[CaseBody], CaseBody]:
    """Make a function of an estimator and a case a check on all cases."""

    def decorate(body: CaseBody) -> CaseBody:
        _add(body.__name__, body.__doc__, lambda s: on_each(s, s.cases(*only), body))
        return body

    return decorate


def on_each(subject: Subject, names: Iterable[str], body: CaseBody) -> None:
    """Run a check on each of some cases, and report all failures at once.

    Raises:
        NotApplicable: it is applicable to none of them.
        Violation: some fail; the message has the reason of the first, and names all.
    """
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


def _add(name: str, about: str | None, run: Body) -> None:
    assert about, name
    name = name.replace("_", "-")
    assert name not in CHECKS, name
    CHECKS[name] = Check(name, about.splitlines()[0].rstrip("."), run)


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
