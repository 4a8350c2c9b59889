"""Hessian-vector products: every estimator's products go through here, and are counted here."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from estimators.problem import Loss, value_and_gradient
from estimators.tree import Params, leaves


@dataclass
class HvpCounter:
    """How many Hessian-vector products were taken inside `count_hvps()`."""

    products: int = 0


_counter: ContextVar[HvpCounter | None] = ContextVar("hvp_counter", default=None)


@contextmanager
def count_hvps() -> Generator[HvpCounter]:
    """Counts the products taken through `HessianAt` in a block.

    Yields:
        A counter whose `products` grows as products are taken.

    Example:
        >>> import torch
        >>> with count_hvps() as counter:
        ...     hessian = HessianAt(lambda p: (p["w"] ** 3).sum(), {"w": torch.ones(2)})
        ...     hessian.product({"w": torch.ones(2)}, last=True)["w"]
        tensor([6., 6.])
        >>> counter.products
        1
    """
    counter = HvpCounter()
    token = _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.reset(token)


class HessianAt:
    """The Hessian of a loss at one point, as an operator.

    The differentiable gradient is built once and shared by all products at the point
    (reverse over reverse): a product costs about two gradients, and the graph's memory is held
    until the product marked `last`, or until the object goes.

    Args:
        loss: maps parameters to a scalar tensor.
        params: the point; left as it is.
    """

    def __init__(self, loss: Loss, params: Params) -> None:
        self._point = leaves(params)
        _, self._gradient = value_and_gradient(loss, self._point, create_graph=True)

    def product(self, vector: Params, *, last: bool) -> Params:
        """Returns H v.

        Args:
            vector: keyed and shaped as the point.
            last: free the graph afterwards; no more products can be taken then.

        Returns:
            The product, detached, keyed and shaped as the point.
        """
        counter = _counter.get()
        if counter is not None:
            counter.products += 1
        # A gradient that is constant in the parameters has no graph, and its Hessian rows are 0.
        curved = {name: g for name, g in self._gradient.items() if g.requires_grad}
        if not curved:
            return {name: torch.zeros_like(value) for name, value in vector.items()}
        products = torch.autograd.grad(
            list(curved.values()),
            list(self._point.values()),
            grad_outputs=[vector[name] for name in curved],
            retain_graph=not last,
            materialize_grads=True,
        )
        if last:
            self._gradient = {}
        return dict(zip(self._point, products, strict=True))


def hvp(loss: Loss, params: Params, vector: Params) -> Params:
    """Returns one Hessian-vector product; its graph is built and freed.

    Args:
        loss: maps parameters to a scalar tensor.
        params: the point.
        vector: keyed and shaped as `params`.

    Returns:
        The product, detached, keyed and shaped as `params`.
    """
    return HessianAt(loss, params).product(vector, last=True)
