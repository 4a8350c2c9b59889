"""The conformance suite: checks that run on any registered estimator."""

from harness.conformance import answers, behaviour, promises

_FILLED = (answers, behaviour, promises)  # importing them fills the table of checks, in this order
