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
        choice: of the user; "yes" is followed where the estimator can be compiled.
    """
    as_asked = Decision(True, "compiled, as asked", worth_telling=False)
    if isinstance(estimator, Compilable) and estimator.compiled:
        return as_asked
    if choice == "no":
        return replace(as_asked, compiled=False, reason="not compiled, as asked")
    saving = ""
    if choice == "auto":
        if next(iter(params.values())).device.type != "cpu":
            reason = "not compiled: what it saves is known for CPUs only"
            return Decision(False, reason, worth_telling=False)
        expected = compilation(params)
        for _ in range(2):  # the first call may have to import
            begin = perf_counter()
            estimate(estimator)
            seconds = (perf_counter() - begin) * steps
            saved = seconds * (1 - expected.share)
            saving = f"to save {saved:.3g} s of {seconds:.3g} s, at about {expected.seconds:.0f} s"
            if saved <= expected.seconds:
                return Decision(False, f"not compiled, only {saving}", worth_telling=False)
        if not shutil.which("c++"):
            return Decision(False, f"not compiled, {saving}: there is no C++ compiler, c++")
    try:
        programs = with_programs(estimator)
        if choice == "yes":
            return as_asked
        estimate(programs)
    except OptionError as error:
        return Decision(False, f"not compiled{saving and ', '}{saving}: {error}")
    return Decision(True, f"compiled, {saving}")


def with_programs(estimator: Estimator) -> Estimator:
    """Return an estimator with compiled programs.

    Raises:
        OptionError: it, or an option of it, does not go with them.
    """
    if not isinstance(estimator, Compilable):
        raise OptionError(f"{estimator.title} has no compiled programs")
    return replace(estimator, compiled=True)
