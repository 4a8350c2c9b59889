"""The suite in worker processes, so that an estimator that crashes or hangs takes nobody down."""

from collections.abc import Iterator

from estimators.base.errors import OptionError
from harness.conformance.check import CHECKS
from harness.conformance.subject import DEEPEST, Subject
from harness.conformance.suite import Finding, Score, Verdict, examine, score, scored_on
from harness.matrix.outcome import Status
from harness.running.processes import Limits, run_in_worker, worker_memory
from harness.support.plugins import load_plugins

Plugins = tuple[str, ...]


class Suite:
    """Checks and scores to come for an estimator, in the order of `steps`.

    Raises:
        OptionError: the estimator cannot be created, or fits no depth that is tried.
    """

    def __init__(self, text: str, plugins: Plugins = (), time_limit: float = 300.0) -> None:
        load_plugins(plugins)
        subject = Subject(text)
        if all(subject.estimator.unsupported_reason(steps) for steps in range(DEEPEST + 1)):
            raise OptionError(str(subject.estimator.unsupported_reason(DEEPEST)))
        self.text, self.plugins, self.time_limit = text, plugins, time_limit
        self.spec = subject.spec
        self.cases = scored_on(subject)

    @property
    def steps(self) -> list[str]:
        """What will be done, in a few words each."""
        return [
            *(name.replace("-", " ") for name in CHECKS),
            *(f"score on {c}" for c in self.cases),
        ]

    def run(self) -> Iterator[Finding | Score]:
        """Yield each finding, then each score, as it is there.

        Once the very first check ended its process, so would the others, and they are not made.
        """
        limits = Limits(self.time_limit, worker_memory(jobs=1))
        dead = ""
        for index, (name, check) in enumerate(CHECKS.items()):
            if dead:
                yield Finding(name, check.about, Verdict.NOT_APPLICABLE, dead)
                continue
            ending = run_in_worker(_examine, self.text, name, limits=limits, plugins=self.plugins)
            if ending.outcome.status is Status.OK:
                yield ending.value
            else:
                yield Finding(name, check.about, Verdict.FAILED, ending.outcome.reason)
                dead = "the first check did not come to its end" if index == 0 else ""
        for case in self.cases:
            if dead:
                yield Score(case, 0, reason=dead)
                continue
            ending = run_in_worker(_score, self.text, case, limits=limits, plugins=self.plugins)
            reason = ending.outcome.reason
            yield ending.value or Score(case, 0, reason=reason)


def _examine(text: str, check: str) -> Finding:
    return examine(Subject(text), CHECKS[check])


def _score(text: str, case: str) -> Score:
    return score(Subject(text), case)
