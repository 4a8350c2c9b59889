"""What compiling an estimator costs, and what it saves, as measured on two cores."""

from dataclasses import dataclass

from estimators import Params

READY_SECONDS = 1.0
"""Until programs that were compiled before are loaded, and compared with uncompiled code."""


@dataclass(frozen=True)
class Compilation:
    """Estimates for one kind of model on a CPU.

    Attributes:
        seconds: that the programs of an estimator take to compile.
        share: of the time of uncompiled code that a compiled meta-batch takes, at most.
    """

    seconds: float
    share: float


# Shares that were measured at K=5 on meta-batches of four: .11 to .19 on mlp-40-40, .47 to .61 on
# mlp-256-256-256, .52 to .68 on conv4-32.
_SMALL = Compilation(seconds=15.0, share=0.25)
_DENSE = Compilation(seconds=15.0, share=0.7)
_CONVOLUTIONAL = Compilation(seconds=90.0, share=0.75)


def compilation(params: Params) -> Compilation:
    """Return the estimates for a model; its kind is as in `estimators.methods.options`."""
    if any(value.dim() > 2 for value in params.values()):
        return _CONVOLUTIONAL
    return _SMALL if sum(value.numel() for value in params.values()) <= 20_000 else _DENSE
