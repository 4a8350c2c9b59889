"""The conformance suite: checks that run on any registered estimator."""

from harness.conformance import answers, behaviour, promises, randomness

# Importing them fills the table of checks, in this order.
_FILLED = (answers, behaviour, promises, randomness)
