"""Every registered estimator conforms, those of other distributions included.

The checks themselves are in `harness.conformance`; `metagrad check` makes them on any estimator.
"""

import pytest

from estimators import Estimator, available
from estimators.dice import ThroughSamples
from estimators.implicit import Implicit
from harness.conformance.check import CHECKS
from harness.conformance.subject import Subject
from harness.conformance.suite import Verdict, examine, score, scored_on

OPTIONS = {
    "binom": "(order=1)",
    "binom-chebyshev": "(order=2)",
    "binom-released": "(order=1)",
    "contrastive": "(lam=1.9)",
    "forward-gradient": "(n=2)",
    "hybrid": "(order=1, window=1)",
    "imaml": "(lam=1.9)",
    "krylov": "(products=1)",
    "neumann": "(terms=2, lam=1.9)",
    "roulette": "(rate=0.8)",
    "truncated": "(order=1)",
    "ufom": "(q=0.3)",
}
SPECS = [name + OPTIONS.get(name, "") for name in available()]


@pytest.mark.parametrize("spec", SPECS)
def test_estimator_conforms_and_refuses_no_case(spec: str) -> None:
    subject = Subject(spec)
    findings = [examine(subject, check) for check in CHECKS.values()]
    failed = [f"{f.about}: {f.reason}" for f in findings if f.verdict is Verdict.FAILED]
    assert not failed
    for name in scored_on(subject):  # so that no check passes for want of cases
        refused = score(subject, name).error is None
        assert refused is not _is_for(subject.estimator, name), name


def _is_for(estimator: Estimator, name: str) -> bool:
    """Return whether an estimator takes a case: some are for what few cases have."""
    if isinstance(estimator, ThroughSamples):
        return name == "bandit/linear"
    if isinstance(estimator, Implicit):
        return name == "trajectory/controls"
    takes_maps = estimator.supports_maps and getattr(estimator, "engine", "auto") == "auto"
    return takes_maps or name != "trajectory/controls"
