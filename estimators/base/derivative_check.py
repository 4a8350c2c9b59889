"""Comparison of torch's derivatives with finite differences."""

from collections.abc import Sequence
from math import inf, isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.base.differentiation import Loss, value_and_gradient
from estimators.base.tree import Params, axpy, leaves

# By the precision that a function computes in: greatest relative errors of gradient and product
# (which kinks disturb), steps, and the noise of value and gradient. Short steps cross few kinks.
_TOLERANCES = {torch.float64: (0.001, 0.01), torch.float32: (0.05, 0.2)}
_STEPS = {
    torch.float64: ((1e-8, 2e-12), (1e-9, 2e-12), (1e-6, 2e-12)),
    torch.float32: ((1e-3, 1e-5), (1e-4, 1e-5), (1e-2, 1e-5)),
}


class Errors(NamedTuple):
    """Relative differences between derivatives and slopes; infinite where one is not finite.

    Attributes:
        gradient: between <gradient, direction> and the slope of the value.
        product: between Hessian-vector product and the slope of the gradient, in the worst tensor.
            The product is by the transposed Hessian: where they agree, it is symmetric, too.
    """

    gradient: float
    product: float

    def small_first(self, precision: torch.dtype) -> bool:
        """Whether the gradient is right."""
        return self.gradient < _TOLERANCES[precision][0]

    def small(self, precision: torch.dtype) -> bool:
        """Whether both are right."""
        return self.small_first(precision) and self.product < _TOLERANCES[precision][1]


def derivative_errors(
    function: Loss, at: Params, direction: Params, precision: torch.dtype, *, twice: bool
) -> Errors:
    """Compare gradient and Hessian-vector product with central differences in a direction.

    Args:
        function: maps parameters to a scalar tensor.
        at: where.
        direction: a random one, about as long as the parameters.
        precision: what the function computes in: float64 or float32.
        twice: whether to take the product; 0 stands for one that torch does not have.
    """
    point = leaves(at)
    value, gradient = value_and_gradient(function, point, create_graph=twice)
    products = _products(gradient, point, direction) if twice else None
    gradient = {name: slope.detach() for name, slope in gradient.items()}
    parts = [float((slope * direction[name]).sum()) for name, slope in gradient.items()]
    largest = max(float(slope.norm()) for slope in gradient.values())
    least = Errors(inf, inf)
    for step, noise in _STEPS[precision]:
        ends = [leaves(axpy(sign * step, direction, at)) for sign in (1.0, -1.0)]
        (upper, up), (lower, down) = (value_and_gradient(function, end) for end in ends)
        slope = float(upper - lower) / (2 * step)
        size = max(abs(slope), sum(map(abs, parts))) + noise * abs(float(value.detach())) / step
        errors = [0.0]
        for product, name in zip(products or [], at, strict=products is not None):
            change = (up[name] - down[name]) / (2 * step)
            length = max(float(product.norm()), float(change.norm())) + noise * largest / step
            errors.append(_finite(float((product - change).norm()) / (length or 1.0)))
        first = _finite(abs(slope - sum(parts)) / (size or 1.0))
        least = Errors(min(least.gradient, first), min(least.product, max(errors)))
        if least.small(precision):
            break
    return least


def _finite(error: float) -> float:
    return error if isfinite(error) else inf


def _products(gradient: Params, point: Params, direction: Params) -> Sequence[Tensor] | None:
    curved = [(slope * direction[n]).sum() for n, slope in gradient.items() if slope.requires_grad]
    if not curved:
        return [torch.zeros_like(value) for value in point.values()]
    try:  # without `grad_outputs`, for which torch imports sympy, for a quarter of a second
        along = torch.stack(curved).sum()
        return torch.autograd.grad(along, list(point.values()), materialize_grads=True)
    except RuntimeError:  # not implemented: estimators that need it will say so
        return None


def random_direction(point: Params, generator: torch.Generator) -> Params:
    """Draw a direction that is as long in each tensor as the tensor is, and a little longer."""
    found = {}
    for name, value in point.items():
        draw = torch.randn(value.shape, generator=generator, device="cpu", dtype=torch.float32)
        length = value.detach().double().square().mean().sqrt() + 0.05
        found[name] = (draw.to(value.device) * length).to(value.dtype)
    return found
