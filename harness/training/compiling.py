"""Whether compiling an estimator pays within the length of a training."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

from estimators import Estimator, Params
from estimators.base.errors import OptionError
from estimators.methods.options import Compilable
from harness.matrix.compilation import compilation


@dataclass(frozen=True)
class Decision:
    """Whether an estimator is compiled for a training.

    Attributes:
        reason: in a few words.
        worth_telling: False where it is as the reader would expect.
    """

    compiled: bool
    reason: str
    worth_telling: bool = True


def decide(
    estimator: Estimator,
    params: Params,
    estimate: Callable[[Estimator], object],
    *,
    steps: int,
    choice: str,
) -> Decision:
    """Decide by the time that compiling saves in all steps, against what it takes once.

    Args:
        estimator: not compiled; it is called.
        params: theta.
        estimate: a meta-batch with an estimator.
        steps: of the training.
        choice: of the user; "yes" and "no" are followed.
    """
    if choice == "no":
        return Decision(False, "not compiled, as asked", worth_telling=False)
    if not isinstance(estimator, Compilable):
        return Decision(False, f"not compiled: {estimator.title} has no compiled programs")
    if estimator.compiled or choice == "yes":
        return Decision(True, "compiled, as asked", worth_telling=False)
    if next(iter(params.values())).device.type != "cpu":
        return Decision(
            False, "not compiled: what it saves is known for CPUs only", worth_telling=False
        )
    expected = compilation(params)
    for _ in range(2):  # the first call may have to import or to calibrate
        begin = perf_counter()
        estimate(estimator)
        seconds = perf_counter() - begin
        saved = steps * seconds * (1 - expected.share)
        sums = f"{saved:.3g} s of {steps * seconds:.3g} s, at about {expected.seconds:.0f} s"
        if saved <= expected.seconds:
            return Decision(False, f"not compiled: it would save {sums}", worth_telling=False)
    if not shutil.which("c++"):
        return Decision(False, f"not compiled, which would save {sums}: c++ is missing")
    try:
        estimate(with_programs(estimator))
    except OptionError as error:
        return Decision(False, f"not compiled: {error}")
    return Decision(True, f"compiled, to save {sums}")


def with_programs(estimator: Estimator) -> Estimator:
    """Return an estimator with compiled programs; one that has none as it is."""
    return replace(estimator, compiled=True) if isinstance(estimator, Compilable) else estimator
