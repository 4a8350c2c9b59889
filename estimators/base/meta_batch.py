"""A meta-batch of problems in one call, and its gradient where optimisers look for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from estimators.base.agreement import fault_of_vmap, kind_of
from estimators.base.differentiation import Loss
from estimators.base.errors import OptionError
from estimators.base.estimator import Estimator
from estimators.base.map_problem import MapProblem
from estimators.base.module_loss import ModuleLoss, trainable
from estimators.base.problem import BilevelProblem
from estimators.base.problem_check import check_problem
from estimators.base.tree import Params, axpy, detached, scaled, unstack

Batching = Literal["loop", "vmap"]


@dataclass(frozen=True)
class MetaBatch:
    """The mean over a meta-batch.

    Attributes:
        gradient: of the estimates, keyed and shaped as the parameters.
        outer_loss: scalar.
        step_size_gradient: likewise; None where the step size is one number.
    """

    gradient: Params
    outer_loss: Tensor
    step_size_gradient: Params | None = None


def estimate_batch(
    estimator: Estimator,
    problems: Sequence[BilevelProblem],
    params: Mapping[str, Tensor],
    *,
    batching: Batching = "loop",
    generator: torch.Generator | None = None,
) -> MetaBatch:
    """Estimate the mean meta-gradient of a meta-batch.

    Args:
        estimator: see `estimators.create`.
        problems: one or more.
        params: theta.
        batching: "loop" takes one problem after another; "vmap" takes all at once: several times
            as fast where small models are bound by launches, with the memory of all at once. It
            needs problems from `module_problem` that differ only in their data, and an estimator
            that is `batchable`.
        generator: what a random estimator draws from, for each problem anew; see
            `Estimator.__call__`.

    Raises:
        OptionError: there is no problem, or the problems cannot be taken at once.
    """
    if not isinstance(estimator, Estimator):
        raise OptionError(
            f"expected an estimator, not a {type(estimator).__name__}; see estimators.create"
        )
    if isinstance(problems, BilevelProblem):
        raise OptionError("a meta-batch is a list of problems: write [problem] for one")
    problems = list(problems)
    if not problems:
        raise OptionError("a meta-batch needs at least one problem")
    if batching not in ("loop", "vmap"):
        raise OptionError(f'batching={batching!r} is neither "loop" nor "vmap"')
    params = detached(params)
    if not all(_same_sizes(problem.step_size, problems[0].step_size) for problem in problems):
        raise OptionError("problems of one meta-batch must share their step sizes by parameter")
    count = len(problems)
    if batching == "vmap":
        if not estimator.batchable:
            raise OptionError(
                "an estimator that is random, or whose steps depend on all problems together "
                "(finite differences, imaml, contrastive without delta), cannot take a meta-batch "
                'at once; use batching="loop"'
            )
        for problem in problems:
            check_problem(problem, params)
        together = stacked(problems)
        _refuse_vmap(estimator, problems, params)
        result = estimator(together, repeated(params, count))
        gradient = {name: value.sum(0) for name, value in result.gradient.items()}
        total = MetaBatch(gradient, result.outer_loss, result.step_size_gradient)
    else:
        total = _one(estimator, problems[0], params, generator)
        for problem in problems[1:]:
            total = _added(total, _one(estimator, problem, params, generator))
    sizes = total.step_size_gradient
    return MetaBatch(
        scaled(1 / count, total.gradient),
        total.outer_loss / count,
        scaled(1 / count, sizes) if sizes is not None else None,
    )


def meta_backward(
    estimator: Estimator,
    problems: Sequence[BilevelProblem],
    module: nn.Module,
    *,
    batching: Batching = "loop",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add the mean meta-gradient to `.grad` of a module's parameters, as `backward()` does.

    Step sizes by parameter that require a gradient get theirs too.

    Args:
        estimator: see `estimators.create`.
        problems: a meta-batch, from `module_problem`.
        module: theta are its parameters that require a gradient.
        batching: see `estimate_batch`.
        generator: likewise.

    Returns:
        The mean outer loss; scalar, detached.

    Example:
        >>> import torch
        >>> from estimators import create, module_problem
        >>> model, mse = torch.nn.Linear(2, 1), torch.nn.functional.mse_loss
        >>> batch = torch.ones(4, 2), torch.zeros(4, 1)
        >>> problem = module_problem(model, mse, batch, batch, step_size=0.1, steps=3)
        >>> loss = meta_backward(create("binom(order=2)"), [problem], model)
        >>> model.weight.grad.shape
        torch.Size([1, 2])
    """
    problems = list(problems) if isinstance(problems, Iterable) else problems
    result = estimate_batch(
        estimator, problems, trainable(module), batching=batching, generator=generator
    )
    named = dict(module.named_parameters())
    pairs: list[tuple[Tensor, Tensor]]
    pairs = [(named[name], gradient) for name, gradient in result.gradient.items()]
    sizes = problems[0].step_size
    if isinstance(sizes, dict) and result.step_size_gradient is not None:
        pairs += [(sizes[name], gradient) for name, gradient in result.step_size_gradient.items()]
    tensors, gradients = zip(*((t, g) for t, g in pairs if t.requires_grad), strict=True)
    torch.autograd.backward(tensors, gradients)
    return result.outer_loss


def _refuse_vmap(estimator: Estimator, problems: Sequence[BilevelProblem], params: Params) -> None:
    """Refuse problems that vmap cannot take, or of which it makes something else than a loop."""
    first = problems[0].inner_loss
    assert isinstance(first, ModuleLoss)
    few = problems[:2]
    if getattr(estimator, "compiled", False):  # would be compiled for two problems too
        estimator = replace(estimator, compiled=False)  # type: ignore[type-var]
    reason = fault_of_vmap(
        (kind_of(estimator, first.module, first.batch, params), first.kind),
        lambda: unstack(estimator(stacked(few), repeated(params, len(few))).gradient),
        lambda: [estimator(problem, params).gradient for problem in few],
    )
    if reason:
        raise OptionError(
            f'vmap cannot take these problems at once ({reason}); use batching="loop"'
        )


def _one(
    estimator: Estimator,
    problem: BilevelProblem,
    params: Params,
    generator: torch.Generator | None,
) -> MetaBatch:
    result = estimator(problem, params, generator=generator)
    return MetaBatch(result.gradient, result.outer_loss, result.step_size_gradient)


def _added(one: MetaBatch, other: MetaBatch) -> MetaBatch:
    sizes, more = one.step_size_gradient, other.step_size_gradient
    return MetaBatch(
        axpy(1.0, one.gradient, other.gradient),
        one.outer_loss + other.outer_loss,
        axpy(1.0, sizes, more) if sizes is not None and more is not None else None,
    )


@dataclass(frozen=True, eq=False)
class StackedLoss:
    """Sum of a module's losses over problems, their parameters, buffers and data stacked."""

    each: ModuleLoss
    batch: tuple[Any, Any]
    buffers: Params

    def __call__(self, stacked: Params) -> Tensor:
        """Return the sum at parameters that have the problems along their first dimension."""
        losses: Tensor = self._mapped(stacked, lambda loss, params: loss(params))
        return losses.sum()

    def outputs_and_losses(self, stacked: Params) -> tuple[Any, Tensor]:
        """Return what the module puts out, and the loss, for each problem."""
        found: tuple[Any, Tensor] = self._mapped(stacked, ModuleLoss.outputs_and_loss)
        return found

    def _mapped(self, stacked: Params, function: Callable[[ModuleLoss, Params], Any]) -> Any:
        def one(params: Params, buffers: Params, *batch: Any) -> Any:
            inputs, targets = batch
            own = replace(self.each, batch=(inputs, targets), buffers=self.each.buffers | buffers)
            return function(own, params)

        return torch.vmap(one)(stacked, self.buffers, *self.batch)


def _same_sizes(one: float | Params, other: float | Params) -> bool:
    """Return whether step sizes are the very same tensors, or numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(one[name] is other[name] for name in one)
    return not isinstance(one, dict) and not isinstance(other, dict)


def repeated(params: Mapping[str, Tensor], count: int) -> Params:
    """Return the same parameters for each of several problems, without a copy.

    Args:
        params: theta.
        count: of the problems.
    """
    return {name: value.expand(count, *value.shape) for name, value in params.items()}


def stacked(problems: Sequence[BilevelProblem]) -> BilevelProblem:
    """Return one problem whose parameters are stacks, and whose losses are sums, of several.

    Its inner loop at `repeated` parameters goes the way of each of the several.

    Args:
        problems: one or more, from `module_problem`, that differ only in their data.

    Raises:
        OptionError: they differ in something else.
    """
    first = problems[0]
    if any(isinstance(problem, MapProblem) for problem in problems):
        raise OptionError(
            'problems with an inner map or frozen parameters cannot be taken at once; use "loop"'
        )
    for problem in problems[1:]:
        same = isinstance(first.step_size, dict) or problem.step_size == first.step_size
        if not same or (problem.steps, problem.momentum) != (first.steps, first.momentum):
            raise OptionError('problems of one meta-batch must share their inner loop for "vmap"')
    return replace(
        first,
        inner_loss=_stacked_loss([problem.inner_loss for problem in problems]),
        outer_loss=_stacked_loss([problem.outer_loss for problem in problems]),
    )


def _stacked_loss(losses: Sequence[Loss]) -> StackedLoss:
    ours = [loss for loss in losses if isinstance(loss, ModuleLoss)]
    if len(ours) < len(losses):
        raise OptionError('batching="vmap" needs problems made by module_problem; use "loop"')
    first = ours[0]
    same = [_same_criterion(loss.criterion, first.criterion) for loss in ours]
    if not all(same) or any(loss.module is not first.module for loss in ours):
        raise OptionError('problems of one meta-batch must share module and loss for "vmap"')
    own = [n for n in first.buffers if any(o.buffers[n] is not first.buffers[n] for o in ours)]
    return StackedLoss(
        first,
        _stack("data", [loss.batch for loss in ours]),
        _stack("buffers", [{name: loss.buffers[name] for name in own} for loss in ours]),
    )


def _same_criterion(one: object, other: object) -> bool:
    bound = isinstance(one, MethodType) and isinstance(other, MethodType)
    return one is other or (bound and one == other)


def _stack(name: str, trees: Sequence[Any]) -> Any:
    """Stack the tensors of nested tuples, lists or dicts, of one problem each."""

    def stack(*tensors: Any) -> Tensor:
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise OptionError(f'the {name} must be tensors for "vmap"; use batching="loop"')
        return torch.stack(tensors)

    try:
        return tree_map(stack, *trees)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f'tasks of one meta-batch must have {name} of one shape for "vmap"; use "loop"'
        ) from error
