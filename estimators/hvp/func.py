"""Reverse over reverse by torch.func: what torch.compile can trace."""

from collections.abc import Callable

import torch

from estimators.base.differentiation import Loss, evaluate
from estimators.base.tree import Params, detached
from estimators.hvp.hessian import Hessian


class Func(Hessian):
    """H v as the vector-Jacobian product of `torch.func.grad(loss)`.

    The gradient is built once and shared by all products at the point, as by `Reverse`.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        gradient = torch.func.grad(lambda point: evaluate(loss, point))
        _, pullback = torch.func.vjp(gradient, detached(params))  # type: ignore[misc]
        self._pullback: Callable[..., tuple[Params]] = pullback

    def _product(self, vector: Params, *, last: bool) -> Params:
        (product,) = self._pullback(vector)
        if last:
            del self._pullback
        return detached(product)
