"""How many Hessian-vector products were taken."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass
class HvpCounter:
    """How many Hessian-vector products were taken inside `count_hvps()`."""

    products: int = 0


_counter: ContextVar[HvpCounter | None] = ContextVar("hvp_counter", default=None)


@contextmanager
def count_hvps() -> Generator[HvpCounter]:
    """Counts the products taken through `Hessian.product` in a block, compiled ones aside.

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


def tell(products: int) -> None:
    """Adds products to the counter of the surrounding block, if there is one."""
    if torch.compiler.is_compiling():
        return
    counter = _counter.get()
    if counter is not None:
        counter.products += products
