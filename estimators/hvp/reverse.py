"""Reverse over reverse, by autograd and by torch.func."""

from collections.abc import Callable

import torch

from estimators.base.differentiation import Loss, evaluate, value_and_gradient
from estimators.base.tree import Params, detached, leaves
from estimators.hvp.hessian import Hessian


class Reverse(Hessian):
    """H v = d <grad loss, v> / d params, with v held fixed.

    The differentiable gradient is built once and shared by all products at the point; a
    product costs about two gradients, and the graph's memory is held until the last one.

    Source: Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        self._point = leaves(params)
        _, self._gradient = value_and_gradient(loss, self._point, create_graph=True)

    def _product(self, vector: Params, *, last: bool) -> Params:
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


class Func(Hessian):
    """H v as the vector-Jacobian product of `torch.func.grad(loss)`: `Reverse` for torch.compile.

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
