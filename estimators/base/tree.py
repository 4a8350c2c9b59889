"""Vector arithmetic on parameter dictionaries, so that estimators read like their formulas."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

Params = dict[str, Tensor]


def detached(params: Mapping[str, Tensor]) -> Params:
    """Return detached views."""
    return {name: value.detach() for name, value in params.items()}


def leaves(params: Mapping[str, Tensor]) -> Params:
    """Return detached views that require a gradient; the originals are not touched."""
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def require_gradients(params: Mapping[str, Tensor]) -> None:
    """Make leaves of tensors that have no graph, and that nobody else refers to."""
    for value in params.values():
        value.requires_grad_()


def axpy(scale: float, x: Params, y: Params) -> Params:
    """Return scale * x + y, key by key."""
    values, others = [*y.values()], [x[name] for name in y]
    graph = torch.is_grad_enabled() and [v for v in (*values, *others) if v.requires_grad]
    # One call for all is quicker from two tensors on, but its graph would hold them all.
    if graph or len(values) < 2:
        return {name: torch.add(value, x[name], alpha=scale) for name, value in y.items()}
    sums = torch._foreach_add(values, others, alpha=scale)
    return dict(zip(y, sums, strict=True))


def scaled(scale: float, x: Params) -> Params:
    """Return scale * x, key by key."""
    return {name: value * scale for name, value in x.items()}


def inner(x: Params, y: Params) -> Tensor:
    """Return the inner product of two parameter dictionaries, not empty ones; differentiable."""
    first, *others = (torch.sum(value * y[name]) for name, value in x.items())
    return sum(others, first)


def dot(x: Params, y: Params) -> float:
    """Return the inner product of two parameter dictionaries, accumulated in float64."""
    products = [torch.sum(value.double() * y[name].double()) for name, value in x.items()]
    return float(torch.stack(products).sum())  # one wait for a GPU, not one a tensor


def norm(x: Params) -> float:
    """Return the Euclidean norm over all entries of all tensors, accumulated in float64."""
    return math.sqrt(dot(x, x))


def stack(points: Sequence[Params]) -> Params:
    """Return several points as one: its tensors have the points along a new first dimension."""
    return {name: torch.stack([point[name] for point in points]) for name in points[0]}


def unstack(stacked: Params) -> list[Params]:
    """Return the points of a stack, as views."""
    rows = zip(*(value.unbind() for value in stacked.values()), strict=True)
    return [dict(zip(stacked, row, strict=True)) for row in rows]


def unrounded(like: Tensor) -> AbstractContextManager[None]:
    """Keep autocast from rounding products of a block, which are of vectors, not of layers."""
    return torch.autocast(like.device.type, enabled=False)


def flat(params: Params) -> Tensor:
    """Return all entries as one new vector, in the widest of their types, float32 at least."""
    joined = torch.cat([value.reshape(-1) for value in params.values()])
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def shaped(vector: Tensor, like: Params) -> Params:
    """Return the entries of a vector, keyed, shaped and typed as parameters: undo `flat`."""
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    pairs = zip(like.items(), pieces, strict=True)
    return {name: piece.view(value.shape).to(value.dtype) for (name, value), piece in pairs}
