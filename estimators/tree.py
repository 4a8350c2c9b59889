"""Vector arithmetic on parameter dictionaries, so that estimators read like their formulas."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]


def leaves(params: Mapping[str, Tensor]) -> Params:
    """Returns detached views that require a gradient; the originals are not touched."""
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def axpy(scale: float, x: Params, y: Params) -> Params:
    """Returns scale * x + y, key by key."""
    return {name: torch.add(value, x[name], alpha=scale) for name, value in y.items()}


def scaled(scale: float, x: Params) -> Params:
    """Returns scale * x, key by key."""
    return {name: value * scale for name, value in x.items()}


def dot(x: Params, y: Params) -> float:
    """Returns the inner product of two parameter dictionaries, accumulated in float64."""
    return sum(float(torch.sum(value.double() * y[name].double())) for name, value in x.items())


def norm(x: Params) -> float:
    """Returns the Euclidean norm over all entries of all tensors, accumulated in float64."""
    return math.sqrt(dot(x, x))
