"""The interface of engines for Hessian-vector products, which counts the products."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from estimators.base.differentiation import Loss
from estimators.base.tree import Params


@dataclass
class HvpCounter:
    """How many Hessian-vector products were taken inside `count_hvps()`."""

    products: int = 0


_counter: ContextVar[HvpCounter | None] = ContextVar("hvp_counter", default=None)


@contextmanager
def count_hvps() -> Generator[HvpCounter]:
    """Count the products taken through `Hessian.product` in a block, compiled ones aside.

    Yields:
        A counter whose `products` grows as products are taken.

    Example:
        >>> import torch
        >>> from estimators.hvp import hvp
        >>> with count_hvps() as counter:
        ...     ones = {"w": torch.ones(2)}
        ...     hvp(lambda p: (p["w"] ** 3).sum(), ones, ones, engine="reverse")["w"]
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


class Hessian(ABC):
    """The Hessian of a loss at one point, as an operator; subclasses are the engines.

    Args:
        loss: maps parameters to a scalar tensor.
        params: the point; left as it is.
        points: how many points are stacked in `params`; each counts as a product.
    """

    def __init__(self, loss: Loss, params: Params, points: int = 1) -> None:
        self._points = points
        self._spent = False
        self._prepare(loss, params)

    def product(self, vector: Params, *, last: bool) -> Params:
        """Return H v.

        Args:
            vector: keyed and shaped as the point.
            last: free what was kept for further products; none can be taken then.

        Returns:
            The product, detached, keyed and shaped as the point.

        Raises:
            RuntimeError: the last product was taken before.
        """
        if self._spent:
            raise RuntimeError("no product can be taken after the one marked as the last")
        self._spent = last
        counter = _counter.get()
        if counter is not None:
            counter.products += self._points
        return self._product(vector, last=last)

    @abstractmethod
    def _prepare(self, loss: Loss, params: Params) -> None:
        """Do the work that all products at the point share."""

    @abstractmethod
    def _product(self, vector: Params, *, last: bool) -> Params:
        """See `product`."""
