"""`metagrad check`."""

from typing import Annotated

import typer

from estimators.base.errors import UserError
from harness.commands.options import Imports, NoProblemCheck, TimeLimit, console, print_line


def check(
    estimator: Annotated[
        str, typer.Argument(metavar="SPEC", help='Estimator, as "binom(order=2)".')
    ],
    time_limit: TimeLimit = 300,
    no_problem_check: NoProblemCheck = False,
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Check that an estimator keeps its contract, and report whether it is exact or biased.

    Exit code 0: it does; 1: a check failed; 2: it could not be checked.
    """
    from harness.conformance.report import print_report
    from harness.conformance.suite import Finding, Score, Suite, Verdict
    from harness.support.progress import progress_bar

    suite = Suite(estimator, tuple(imports), time_limit, check=not no_problem_check)
    print_line(f"Checking {suite.spec}")
    results: list[Finding | Score] = []
    try:
        with progress_bar(console) as show:
            steps = [*suite.steps, "done"]
            show(0, len(suite.steps), steps[0])
            for result in suite.run():
                results.append(result)
                show(len(results), len(suite.steps), steps[len(results)])
    except KeyboardInterrupt:
        raise UserError(f"stopped at: {suite.steps[len(results)]}") from None
    findings = [result for result in results if isinstance(result, Finding)]
    scores = [result for result in results if isinstance(result, Score)]
    print_report(suite.spec, findings, scores, console)
    return int(any(finding.verdict is Verdict.FAILED for finding in findings))
