"""`metagrad check`."""

from typing import Annotated

import typer

from estimators.base.errors import OptionError
from harness.commands.options import Imports, TimeLimit, console


def check(
    estimator: Annotated[
        str, typer.Argument(metavar="SPEC", help='Estimator, as "binom(order=2)".')
    ],
    time_limit: TimeLimit = 300,
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Check that an estimator keeps its contract, and tell whether it is exact or biased.

    Exit code 0: it does; 1: a check failed; 2: it could not be checked.
    """
    from harness.conformance.isolation import Suite
    from harness.conformance.report import print_report
    from harness.conformance.suite import Finding, Score, Verdict
    from harness.support.progress import progress_bar

    suite = Suite(estimator, tuple(imports), time_limit)
    console.print(f"Checking {suite.spec}", highlight=False, markup=False)
    ended: list[Finding | Score] = []
    try:
        with progress_bar(console) as show:
            steps = [*suite.steps, "done"]
            show(0, len(suite.steps), steps[0])
            for end in suite.run():
                ended.append(end)
                show(len(ended), len(suite.steps), steps[len(ended)])
    except KeyboardInterrupt:
        raise OptionError(f"stopped at: {suite.steps[len(ended)]}") from None
    findings = [end for end in ended if isinstance(end, Finding)]
    scores = [end for end in ended if isinstance(end, Score)]
    print_report(suite.spec, findings, scores, console)
    return int(any(finding.verdict is Verdict.FAILED for finding in findings))
