"""First derivatives, through which (and `estimators.hvp`) all estimators differentiate."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from estimators.base.attention import is_trainable, plain_attention, trainable_attention
from estimators.base.errors import OptionError
from estimators.base.failures import missing_derivative
from estimators.base.tree import Params, detached, leaves

Loss = Callable[[Params], Tensor]


def evaluate(loss: Loss, params: Params) -> Tensor:
    """Evaluate a loss and checks that it can be used.

    Args:
        loss: maps parameters to a scalar tensor.
        params: where.

    Raises:
        OptionError: the loss is not a scalar tensor; or it is not differentiable in the parameters,
            while gradients are enabled.
    """
    if is_trainable():
        value = loss(params)
    else:
        with trainable_attention():
            value = loss(params)
    if not isinstance(value, Tensor):
        raise OptionError(f"a loss must return a tensor, not a {type(value).__name__}")
    if value.dim() != 0:
        raise OptionError(f"a loss must be a scalar tensor, not of shape {tuple(value.shape)}")
    if torch.is_grad_enabled() and not value.requires_grad:
        raise OptionError("a loss must be differentiable in the parameters that it is given")
    return value


def value_and_gradient(
    loss: Loss, params: Params, *, create_graph: bool = False
) -> tuple[Tensor, Params]:
    """Evaluate a loss and its gradient.

    Args:
        loss: maps parameters to a scalar tensor.
        params: tensors that require a gradient.
        create_graph: keep the gradient differentiable, for Hessian-vector products.

    Returns:
        The scalar loss (detached unless `create_graph`) and the gradient, keyed and shaped as
        `params`; zero for a parameter that the loss does not use.

    Raises:
        OptionError: the loss is not a scalar, or does not depend on the parameters at all.
    """
    value, slopes = _value_and_gradient(loss, params, create_graph)
    return (value if create_graph else value.detach()), slopes


def gradient_at(loss: Loss, params: Params, *, create_graph: bool = False) -> Params:
    """Return the gradient of a loss; see `value_and_gradient`."""
    return _value_and_gradient(loss, params, create_graph)[1]


def _value_and_gradient(loss: Loss, params: Params, create_graph: bool) -> tuple[Tensor, Params]:
    """Return a loss, with what is left of its graph, and its gradient."""
    if not torch.is_grad_enabled():
        with torch.enable_grad():
            return _value_and_gradient(loss, params, create_graph)
    if create_graph:
        with plain_attention():
            value = evaluate(loss, params)
    else:
        value = evaluate(loss, params)
    grads = differentiated(value, [*params.values()], create_graph=create_graph)
    return value, dict(zip(params, grads, strict=True))


def differentiated(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    *,
    create_graph: bool = False,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Call `torch.autograd.grad` for dense results; what torch lacks ends in one clear line.

    Args:
        outputs: of the graph.
        inputs: in the same graph, or not: the gradients of these are zeros.
        create_graph: see `torch.autograd.grad`.
        **options: likewise.

    Raises:
        OptionError: torch cannot differentiate an operation, or not twice.
        RuntimeError: torch's, where it is about something else.
    """
    try:
        found = torch.autograd.grad(
            outputs, inputs, allow_unused=True, create_graph=create_graph, **options
        )
    except RuntimeError as error:
        refusal = missing_derivative(error)
        if refusal is None:
            raise
        raise refusal from error
    for grad in found:  # materialize_grads=True takes several times as long for the same
        if grad is None or grad.is_sparse:
            break
    else:
        return found
    return tuple(
        torch.zeros_like(value, requires_grad=create_graph)
        if grad is None
        else grad.to_dense()
        if grad.is_sparse
        else grad
        for grad, value in zip(found, inputs, strict=True)
    )


def differentiate(
    function: Callable[..., tuple[Tensor, Params]], *points: Params
) -> tuple[Tensor, Params, tuple[Params, ...]]:
    """Differentiate a function that has an auxiliary result.

    Args:
        function: maps as many parameter dictionaries as there are points to a scalar and to
            the auxiliary result.
        *points: where; they are not changed.

    Returns:
        The scalar, the auxiliary result, and one gradient for each point; all detached.
    """
    points = tuple(leaves(point) for point in points)
    value, rest = function(*points)
    tensors = [tensor for point in points for tensor in point.values()]
    grads = iter(differentiated(value, tensors))
    gradients = tuple({name: next(grads) for name in point} for point in points)
    return value.detach(), detached(rest), gradients


def summed(loss: Loss) -> Loss:
    """Return the sum of a loss over stacked points; the loss is called once, through vmap.

    Its Hessian is block-diagonal: one product with it is a product at each point.

    Args:
        loss: of one point.
    """

    def one(params: Params) -> Tensor:
        # Of a callable that is no function, vmap would take the repr for a name: all its tensors
        # in writing, for milliseconds.
        return loss(params)

    def total(stacked: Params) -> Tensor:
        return torch.vmap(one)(stacked).sum()

    return total


def operations(value: Tensor) -> list[Node]:
    """Return the nodes of autograd's graph that a tensor was made by."""
    found: dict[Node, None] = {}
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [parent for parent, _ in node.next_functions]
    return list(found)
