"""What every registered estimator must do, those of other distributions included.

The checks themselves are in `harness.conformance`; `metagrad check` makes them on any estimator.
"""

from functools import cache

import pytest

from estimators import available
from harness.conformance import CHECKS, Subject, Verdict, examine, score, scored_on

OPTIONS = {
    "binom": "(order=1)",
    "binom-calibrated": "(order=1, probes=4)",
    "binom-released": "(order=1)",
    "hybrid": "(order=1, window=1)",
    "imaml": "(lam=2.0)",
    "neumann": "(terms=2, lam=2.0)",
    "truncated": "(order=1)",
}
SPECS = [name + OPTIONS.get(name, "") for name in available()]

every_estimator = pytest.mark.parametrize("spec", SPECS)
subject = cache(Subject)  # the plain calls on its cases are made once


@every_estimator
@pytest.mark.parametrize("check", CHECKS)
def test_estimator_conforms(spec: str, check: str) -> None:
    finding = examine(subject(spec), CHECKS[check])
    if finding.verdict is Verdict.NOT_APPLICABLE:
        pytest.skip(finding.reason)
    assert finding.verdict is Verdict.PASSED, f"{finding.about}: {finding.reason}"


@every_estimator
def test_no_case_is_refused(spec: str) -> None:
    """So that no check passes for want of cases."""
    under_test = subject(spec)
    for name in scored_on(under_test):
        assert score(under_test, name).error is not None, name
