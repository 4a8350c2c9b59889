"""Several parameter points as one, so that work on them is batched.

The sum of a loss over stacked points has a block-diagonal Hessian: one product with it is a
product at each point. In the same way, a stack of bilevel problems is one bilevel problem.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from estimators.base.differentiation import Loss
from estimators.base.tree import Params


def stack(points: Sequence[Params]) -> Params:
    """Returns one dictionary whose tensors have the points along a new first dimension."""
    return {name: torch.stack([point[name] for point in points]) for name in points[0]}


def unstack(stacked: Params) -> list[Params]:
    """Returns the points of a stack, as views."""
    rows = zip(*(value.unbind() for value in stacked.values()), strict=True)
    return [dict(zip(stacked, row, strict=True)) for row in rows]


def summed(loss: Loss) -> Loss:
    """Returns the sum of a loss over stacked points; the loss is called once, through vmap."""

    def one(params: Params) -> Tensor:
        # Of a callable that is no function, vmap would take the repr for a name: all its tensors
        # in writing, for milliseconds.
        return loss(params)

    def total(stacked: Params) -> Tensor:
        return torch.vmap(one)(stacked).sum()

    return total
