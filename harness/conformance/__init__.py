"""What every estimator must do, as checks that run on any one that is registered."""

from harness.conformance import checks
from harness.conformance.check import CHECKS, Check
from harness.conformance.subject import Subject
from harness.conformance.suite import Finding, Score, Verdict, examine, score, scored_on

_FILLED = (checks,)  # importing them fills the table

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Score",
    "Subject",
    "Verdict",
    "examine",
    "score",
    "scored_on",
]
