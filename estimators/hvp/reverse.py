"""Reverse over reverse, by autograd and by torch.func."""

from collections.abc import Callable

import torch

from estimators.base.attention import plain_attention
from estimators.base.differentiation import Loss, differentiated, evaluate, gradient_at
from estimators.base.errors import OptionError
from estimators.base.failures import first_line, out_of_memory
from estimators.base.tree import Params, detached, leaves
from estimators.hvp.hessian import Hessian


class Reverse(Hessian):
    """H v = d <grad loss, v> / d params, with v held fixed.

    The differentiable gradient is built once and shared by all products at the point; a
    product costs about two gradients, and the graph's memory is held until the last one.

    Source: Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994.

    Raises:
        OptionError: torch cannot differentiate an operation of the loss twice.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        self._point = leaves(params)
        self._gradient = gradient_at(loss, self._point, create_graph=True)

    def _product(self, vector: Params, *, last: bool) -> Params:
        # A gradient that is constant in the parameters has no graph, and its Hessian rows are 0.
        curved = [name for name, slope in self._gradient.items() if slope.requires_grad]
        if not curved:
            return {name: torch.zeros_like(value) for name, value in vector.items()}
        products = differentiated(
            [self._gradient[name] for name in curved],
            [*self._point.values()],
            grad_outputs=[vector[name] for name in curved],
            retain_graph=not last,
        )
        if last:
            self._gradient = {}
        return dict(zip(self._point, products, strict=True))


class Func(Hessian):
    """H v as the vector-Jacobian product of `torch.func.grad(loss)`.

    The gradient is built once and shared by all products at the point, as by `Reverse`.

    Raises:
        OptionError: torch.func cannot differentiate an operation of the loss twice.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        self._loss, self._params = loss, detached(params)
        gradient = torch.func.grad(lambda point: evaluate(loss, point))
        try:
            with plain_attention():
                _, pullback = torch.func.vjp(gradient, self._params)  # type: ignore[misc]
        except RuntimeError as error:
            raise refusal("func", error, loss, params) from error
        self._pullback: Callable[..., tuple[Params]] = pullback

    def _product(self, vector: Params, *, last: bool) -> Params:
        try:
            (product,) = self._pullback(vector)
        except RuntimeError as error:
            raise refusal("func", error, self._loss, self._params) from error
        if last:
            del self._pullback
        return detached(product)


def refusal(
    engine: str, error: RuntimeError, loss: Loss, params: Params, operation: str = "the loss"
) -> OptionError:
    """Return what to tell of an error that "reverse" would not have.

    Args:
        engine: in which it was raised.
        error: the error.
        loss: of which a product was wanted.
        params: where.
        operation: that failed.

    Raises:
        RuntimeError: memory is used up; or whatever "reverse" raises.
    """
    if out_of_memory(error):
        raise error
    Reverse(loss, params).product(params, last=True)
    return OptionError(
        f"engine={engine!r}: no second derivative of {operation} here ({first_line(error)}); "
        "use engine='reverse'"
    )
