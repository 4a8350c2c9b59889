"""Hessian-vector products, as the estimator counts them; and whether its result is finite."""

import math
import operator
from statistics import mean

from estimators.base.tree import norm
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Diverged
from harness.probes.target import Target


def counts(target: Target) -> Samples:
    """Return how many Hessian-vector products an estimate took, and how many were serial."""
    hvps, serial = [], []
    for result in target.estimates:
        for what, size in (("estimate", norm(result.gradient)), ("outer loss", result.outer_loss)):
            if not math.isfinite(size):
                raise Diverged(f"the {what} of task 0 is not finite")
        # An estimator may count in numbers of numpy or torch, or return what is no number at all.
        hvps.append(operator.index(result.hvps))
        serial.append(operator.index(result.serial_depth))
    return {"hvps": [mean(hvps)], "serial_depth": [mean(serial)]}
