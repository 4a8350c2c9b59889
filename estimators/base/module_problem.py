"""From an `nn.Module`, a criterion and two batches to a bilevel problem."""

from functools import partial
from inspect import unwrap
from typing import Any

from torch import Tensor, nn

from estimators.base.errors import OptionError
from estimators.base.module_loss import Batch, Criterion, ModuleLoss
from estimators.base.problem import BilevelProblem
from estimators.base.problem_check import check_problem
from estimators.base.tree import Params


def module_problem(
    module: nn.Module,
    criterion: Criterion,
    support: Batch,
    query: Batch,
    *,
    step_size: float | Params,
    steps: int,
    momentum: float = 0.0,
    check: bool = True,
) -> BilevelProblem:
    """Return the problem of adapting a module to a support set, judged by a query set.

    Args:
        module: maps inputs to outputs; left as it is. The problem has copies of its buffers, and
            sees all else of it as it is at an estimate.
        criterion: maps outputs and targets to a scalar tensor, as `torch.nn.functional.mse_loss`.
            While it runs, the module has the adapted parameters: `module.parameters()` is what a
            penalty takes. An argument named `params` is given them by name.
        support: inputs and targets to adapt to.
        query: inputs and targets of the outer loss.
        step_size: see `BilevelProblem`.
        steps: K.
        momentum: see `BilevelProblem`.
        check: find out, once for all problems of a kind, whether module and criterion are the
            differentiable function that estimators take them for; some ten gradients.

    Raises:
        OptionError: a number is out of its range; data or module are of a kind that cannot be
            used; or the check has found something: random numbers, a module that changes with
            each call, parameters other than those given, a wrong second derivative.

    Example:
        >>> import torch
        >>> from estimators import create, trainable
        >>> model, mse = torch.nn.Linear(2, 1), torch.nn.functional.mse_loss
        >>> batch = torch.ones(4, 2), torch.zeros(4, 1)
        >>> problem = module_problem(model, mse, batch, batch, step_size=0.1, steps=3)
        >>> create("maml")(problem, trainable(model)).gradient["weight"].shape
        torch.Size([1, 2])
    """
    support, query = _batch("support", support), _batch("query", query)
    inner = ModuleLoss.of(module, criterion, support, None, _wants_params(criterion), check)
    problem = BilevelProblem(inner, inner.on(query), step_size, steps, momentum)
    own = {name: p for name, p in inner.state.parameters.items() if p.requires_grad}
    if check and own:
        check_problem(problem, own, new=True)
    return problem


def _wants_params(criterion: Criterion) -> bool:
    """Return whether a criterion has an argument named `params`."""
    if isinstance(criterion, type) and issubclass(criterion, nn.Module):
        raise OptionError(f"the criterion is a class: write {criterion.__name__}()")
    if not callable(criterion):
        raise OptionError(f"the criterion must be a function, not a {type(criterion).__name__}")
    called: Any = criterion.forward if isinstance(criterion, nn.Module) else criterion
    while isinstance(called, partial):
        if "params" in called.keywords:
            return False
        called = called.func
    called = unwrap(called)
    if not hasattr(called, "__code__"):
        called = type(called).__call__
    code = getattr(called, "__code__", None)
    return (
        code is not None
        and "params" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    )


def _batch(name: str, batch: Batch) -> Batch:
    """Return the inputs and targets of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise OptionError(
            f"{name} must be a pair of inputs and targets, not a {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
        )
    for part in batch:
        if hasattr(part, "__array__") and not isinstance(part, Tensor):
            raise OptionError(f"{name} has a {type(part).__name__}: make it a tensor, torch.tensor")
        if isinstance(part, Tensor) and part.is_inference():
            raise OptionError(f"{name} was made within torch.inference_mode(): clone it outside")
        if isinstance(part, Tensor) and part.requires_grad:
            raise OptionError(
                f"{name} requires a gradient, which no estimator gives: detach it, or make what it "
                "was computed by a part of the module"
            )
    inputs, targets = batch
    return inputs, targets
