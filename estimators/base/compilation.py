"""A whole estimate as one compiled program."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch

from estimators.base.attention import trainable_attention
from estimators.base.errors import OptionError
from estimators.base.failures import first_line, missing_derivative
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params

if TYPE_CHECKING:
    from estimators.base.estimator import Estimator, MetaGradient

_VARIANTS = 64  # shapes, depths, step sizes, ... that one estimator is compiled for
_INDUCTOR: dict[str, dict[str, bool]] = {
    # The program's glue in C++ rather than Python: half the time of a small model on a CPU.
    "cpu": {"cpp_wrapper": True},
    # Hundreds of small kernels launched by one call, as a CUDA graph.
    "cuda": {"triton.cudagraphs": True},
}


def compiled_estimate(
    estimator: "Estimator", problem: BilevelProblem, params: Params
) -> "MetaGradient":
    """Run `estimator.estimate` as one compiled program.

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
    from torch._dynamo.exc import (
        BackendCompilerFailed,
        FailOnRecompileLimitHit,
        TorchRuntimeError,
        Unsupported,
    )

    device = next(iter(params.values())).device.type
    try:
        with trainable_attention():
            result = _compiled(estimator, device)(problem, params)
    except FailOnRecompileLimitHit as error:
        raise OptionError(
            f"{estimator.title} was compiled {_VARIANTS} times: do shapes, depths, step sizes or "
            "numbers in the losses change at every call? make numbers tensors"
        ) from error
    except (Unsupported, BackendCompilerFailed, TorchRuntimeError) as error:
        # A transform of torch.func that fails while it is traced leaves them off.
        torch._C._autograd._saved_tensors_hooks_enable()
        cause = error.__cause__ or error.__context__ or error
        while cause.__cause__:
            cause = cause.__cause__
        raise missing_derivative(cause) or OptionError(
            f"{estimator.title} cannot be compiled here: {first_line(cause)}"
        ) from error
    if device == "cuda":
        return _copied(result)
    # A program may return a parameter that it did not change as it is: the caller's own memory.
    return replace(result, adapted=_copies(result.adapted))


def _copied(result: "MetaGradient") -> "MetaGradient":
    """Copy a result out of the memory of a CUDA graph, which the next launch overwrites.

    Inputs may lie elsewhere at each call: inductor copies them to where they were at capture. No
    new step is marked (`torch.compiler.cudagraph_mark_step_begin`): the program wants no backward,
    so that each call begins one by itself; and once one is marked by hand, all other compiled
    programs of the process wait for such marks too.
    """
    sizes = result.step_size_gradient
    return replace(
        result,
        gradient=_copies(result.gradient),
        outer_loss=result.outer_loss.clone(),
        adapted=_copies(result.adapted),
        step_size_gradient=None if sizes is None else _copies(sizes),
    )


def _copies(params: Params) -> Params:
    return {name: value.clone() for name, value in params.items()}


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
        options=_INDUCTOR.get(device),
    )
    return run
