"""A whole estimate as one compiled program."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch

from estimators.problem import BilevelProblem
from estimators.tree import Params

if TYPE_CHECKING:
    from estimators.estimator import Estimator, MetaGradient

_VARIANTS = 64  # shapes, dtypes, depths and loss functions that one estimator is compiled for


def compiled_estimate(
    estimator: "Estimator", problem: BilevelProblem, params: Params
) -> "MetaGradient":
    """Runs `estimator.estimate` as one compiled program.

    What a loss refers to (its closure, or its attributes) becomes an input of the program, so
    that new data of the same shape is not compiled for again.

    Args:
        estimator: what to run; hashable.
        problem: the bilevel problem.
        params: theta.
    """
    return _compiled(estimator)(problem, params)


@cache
def _compiled(estimator: "Estimator") -> Callable[[BilevelProblem, Params], "MetaGradient"]:
    run: Callable[[BilevelProblem, Params], MetaGradient] = torch.compile(  # type: ignore[call-overload]
        estimator.estimate,
        fullgraph=True,
        dynamic=False,
        recompile_limit=_VARIANTS,
        isolate_recompiles=True,
        # The program's glue in C++ rather than Python: half the time of a small model on a CPU.
        options={"cpp_wrapper": True},
    )
    return run
