"""A whole estimate as one compiled program."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch

from estimators.errors import OptionError
from estimators.problem import BilevelProblem
from estimators.tree import Params

if TYPE_CHECKING:
    from estimators.estimator import Estimator, MetaGradient

_VARIANTS = 64  # shapes, depths, step sizes, ... that one estimator is compiled for


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

    Raises:
        OptionError: something in the estimate, most likely in a loss, cannot be compiled.
    """
    # Takes a second, which few want to wait for.
    from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit, Unsupported

    device = next(iter(params.values())).device.type
    try:
        result = _compiled(estimator, device)(problem, params)
    except FailOnRecompileLimitHit as error:
        raise OptionError(
            f"{estimator.title} was compiled {_VARIANTS} times: do shapes, depths, step sizes or "
            "numbers in the losses change at every call? make numbers tensors"
        ) from error
    except (Unsupported, BackendCompilerFailed) as error:
        raise OptionError(f"{estimator.title} cannot be compiled here: {_reason(error)}") from error
    # A program may return a parameter that it did not change as it is: the caller's own memory.
    adapted = {name: value.clone() for name, value in result.adapted.items()}
    return replace(result, adapted=adapted)


def _reason(error: BaseException) -> str:
    """Returns what was raised within the estimate while it was traced, or the tracer's words."""
    observed = error.__cause__ or error.__context__ or error
    return str(observed).strip().splitlines()[0]


@cache
def _compiled(
    estimator: "Estimator", device: str
) -> Callable[[BilevelProblem, Params], "MetaGradient"]:
    run: Callable[[BilevelProblem, Params], MetaGradient] = torch.compile(  # type: ignore[call-overload]
        estimator.estimate,
        fullgraph=True,
        dynamic=False,
        recompile_limit=_VARIANTS,
        isolate_recompiles=True,
        # The program's glue in C++ rather than Python: half the time of a small model on a CPU.
        options={"cpp_wrapper": True} if device == "cpu" else None,
    )
    return run
