"""The suite in a worker process, so that an estimator that crashes or hangs takes nobody down."""

import signal
from collections.abc import Iterator
from functools import cache, partial

from pebble import ProcessPool

from estimators.errors import OptionError
from harness.conformance.check import CHECKS
from harness.conformance.subject import DEEPEST, Subject
from harness.conformance.suite import Finding, Score, Verdict, examine, score, scored_on
from harness.plugins import load_plugins
from harness.processes import fresh_processes, violent_end

Plugins = tuple[str, ...]


class Suite:
    """Checks and scores to come for an estimator, in the order of `steps`.

    Args:
        text: its specification.
        plugins: modules to import first, here and in the worker.
        time_limit: seconds that each check may take.

    Raises:
        OptionError: the estimator cannot be created, or fits no depth that is tried.
    """

    def __init__(self, text: str, plugins: Plugins = (), time_limit: float = 300.0) -> None:
        load_plugins(plugins)
        subject = Subject(text)
        if all(subject.estimator.misfit(steps) for steps in range(DEEPEST + 1)):
            raise OptionError(str(subject.estimator.misfit(DEEPEST)))
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
        """Yields each finding, then each score, as it is there.

        Once the very first check ended its process, so would the others, and they are not made.
        """
        # An interrupt is for the process that can tell the user.
        deaf = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        with ProcessPool(max_workers=1, context=fresh_processes(), initializer=deaf) as pool:
            try:
                yield from self._in(pool)
            finally:
                pool.stop()  # type: ignore[no-untyped-call]

    def _in(self, pool: ProcessPool) -> Iterator[Finding | Score]:
        arguments = self.plugins, self.text
        dead = ""
        for index, (name, check) in enumerate(CHECKS.items()):
            if dead:
                yield Finding(name, check.about, Verdict.NOT_APPLICABLE, dead)
                continue
            try:
                yield pool.schedule(_examine, (*arguments, name), timeout=self.time_limit).result()
            except Exception as error:
                end = violent_end(error, self.time_limit).reason
                yield Finding(name, check.about, Verdict.FAILED, end)
                dead = "the first check did not come to its end" if index == 0 else ""
        for case in self.cases:
            if dead:
                yield Score(case, 0, reason=dead)
                continue
            try:
                yield pool.schedule(_score, (*arguments, case), timeout=self.time_limit).result()
            except Exception as error:
                yield Score(case, 0, reason=violent_end(error, self.time_limit).reason)


def _examine(plugins: Plugins, text: str, check: str) -> Finding:
    return examine(_subject(plugins, text), CHECKS[check])


def _score(plugins: Plugins, text: str, case: str) -> Score:
    return score(_subject(plugins, text), case)


@cache
def _subject(plugins: Plugins, text: str) -> Subject:
    load_plugins(plugins)
    return Subject(text)
