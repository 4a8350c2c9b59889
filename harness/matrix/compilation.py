"""What compiling an estimator costs, and what it saves, as measured on two cores."""

from dataclasses import dataclass

from estimators import Estimator, Params

READY_SECONDS = 1.0
"""Until programs that were compiled before are loaded, and compared with uncompiled code."""


@dataclass(frozen=True)
class Compilation:
    """Estimates for one kind of model on a CPU.

    Attributes:
        seconds: that the programs of an estimator take to compile.
        share: of the time of uncompiled code that a compiled meta-batch takes, at most.
        share_first_order: the same of estimators that take no Hessian-vector products.
    """

    seconds: float
    share: float
    share_first_order: float

    def share_of(self, estimator: Estimator, depth: int) -> float:
        """Return the share of an estimator at a depth."""
        cost = estimator.cost(depth)
        return self.share if cost is None or cost.hvps else self.share_first_order


_SMALL = Compilation(15.0, 0.25, 0.25)
_DENSE = Compilation(15.0, 0.7, 1.0)
_CONVOLUTIONAL = Compilation(90.0, 0.7, 1.0)


def compilation(params: Params) -> Compilation:
    """Return the estimates for a model; its kind as in `estimators.methods.options`."""
    if any(value.dim() > 2 for value in params.values()):
        return _CONVOLUTIONAL
    return _SMALL if sum(value.numel() for value in params.values()) <= 20_000 else _DENSE
