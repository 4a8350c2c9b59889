"""The conformance suite: checks that run on any registered estimator."""

from harness.conformance import answers, behaviour, promises
from harness.conformance.check import CHECKS, Check
from harness.conformance.subject import Subject
from harness.conformance.suite import Finding, Score, Verdict, examine, score, scored_on

_FILLED = (answers, behaviour, promises)  # importing them fills the table, in this order

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
