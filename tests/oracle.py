"""A slow and obvious reference: dense Hessians and formulas summed as they are printed.

It shares no code with what it checks. Vectors are flat, in the order of the parameters, and
everything is float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

Loss = Callable[[dict[str, Tensor]], Tensor]


def flatten(params: dict[str, Tensor]) -> Tensor:
    """Returns all entries as one vector, in the order of the dictionary."""
    return torch.cat([value.detach().reshape(-1) for value in params.values()])


def unflatten(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cuts a vector into tensors keyed and shaped as `like`; differentiable."""
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: piece.reshape(value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def relative_error(estimate: dict[str, Tensor], reference: Tensor) -> float:
    """Returns the distance of an estimate from a reference, over the reference's norm."""
    return float((flatten(estimate) - reference).norm() / reference.norm())


@dataclass(frozen=True)
class Oracle:
    """A bilevel problem at one theta, in dense linear algebra.

    Attributes:
        inner_loss: the loss that is descended.
        outer_loss: the loss at the end of the descent.
        step_size: alpha.
        steps: K.
        theta: where the descent starts.
    """

    inner_loss: Loss
    outer_loss: Loss
    step_size: float
    steps: int
    theta: dict[str, Tensor]

    @cached_property
    def iterates(self) -> list[Tensor]:
        """phi_0, ..., phi_K."""
        return self._descent(flatten(self.theta), lam=0.0)

    @cached_property
    def hessians(self) -> list[Tensor]:
        """H_0, ..., H_{K-1}."""
        return [self.hessian(phi) for phi in self.iterates[:-1]]

    @cached_property
    def outer_gradient(self) -> Tensor:
        """The gradient g of the outer loss at phi_K."""
        return self.gradient(self.outer_loss, self.iterates[-1])

    def value(self, loss: Loss, point: Tensor) -> Tensor:
        """Returns a loss at a flat point."""
        return loss(unflatten(point, self.theta))

    def gradient(self, loss: Loss, point: Tensor) -> Tensor:
        """Returns a loss's gradient at a flat point."""
        flat = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.value(loss, flat), flat)
        return slope

    def hessian(self, point: Tensor) -> Tensor:
        """Returns the inner loss's dense Hessian at a flat point."""
        hessian: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
            lambda flat: self.value(self.inner_loss, flat), point
        )
        return hessian

    def product(self, indices: list[int]) -> Tensor:
        """Returns A_i A_j ... A_k g, the last index acting first, for indices i, j, ..., k."""
        vector = self.outer_gradient
        for k in reversed(indices):
            vector = vector - self.step_size * self.hessians[k] @ vector
        return vector

    def exact(self) -> Tensor:
        """Returns A_0 ... A_{K-1} g."""
        return self.product(list(range(self.steps)))

    def truncated(self, order: int) -> Tensor:
        """Returns A_{K-L} ... A_{K-1} g."""
        return self.product(list(range(self.steps - order, self.steps)))

    def binomial(self, order: int) -> Tensor:
        """Returns Eq. 8 of arXiv 2604.13263, one subset k_1 < ... < k_l of the steps at a time."""
        total = torch.zeros_like(self.outer_gradient)
        for size in range(order + 1):
            for subset in combinations(range(self.steps), size):
                term = self.outer_gradient
                for k in reversed(subset):
                    term = self.hessians[k] @ term
                total = total + (-self.step_size) ** size * term
        return total

    def reptile(self) -> Tensor:
        """Returns the sum of the inner gradients along the descent."""
        return torch.stack([self.gradient(self.inner_loss, p) for p in self.iterates[:-1]]).sum(0)

    def proximal_descent(self, lam: float) -> Tensor:
        """Returns phi_K of K steps on inner_loss(phi) + lam/2 ||phi - theta||^2."""
        return self._descent(flatten(self.theta), lam)[-1]

    def proximal_exact(self, lam: float) -> Tensor:
        """Returns the derivative of the outer loss at that phi_K, its Jacobian carried forward."""
        *points, last = self._descent(flatten(self.theta), lam)
        identity = torch.eye(len(last), dtype=last.dtype)
        jacobian = identity
        for point in points:
            slope = self._proximal_hessian(point, lam) @ jacobian - lam * identity
            jacobian = jacobian - self.step_size * slope
        return jacobian.T @ self.gradient(self.outer_loss, last)

    def proximal_minimiser(self, lam: float) -> Tensor:
        """Returns the minimiser of inner_loss(phi) + lam/2 ||phi - theta||^2, by Newton steps."""
        point = start = flatten(self.theta)
        slope = self._proximal_gradient(point, start, lam)
        while slope.norm() > 1e-12:
            point = point - torch.linalg.solve(self._proximal_hessian(point, lam), slope)
            slope = self._proximal_gradient(point, start, lam)
        assert torch.linalg.eigvalsh(self._proximal_hessian(point, lam)).min() > 0
        return point

    def implicit(self, point: Tensor, lam: float) -> Tensor:
        """Returns (I + H/lam)^{-1} g with H and g at a flat point."""
        g = self.gradient(self.outer_loss, point)
        solution: Tensor = torch.linalg.solve(self._proximal_hessian(point, lam) / lam, g)
        return solution

    def implicit_in_krylov_space(self, point: Tensor, lam: float, size: int) -> Tensor:
        """Returns the best approximation of `implicit` in span{g, A g, ..., A^{size-1} g}.

        Best in the norm of A = I + H/lam, which is what `size` conjugate-gradient steps reach.
        """
        matrix = self._proximal_hessian(point, lam) / lam
        g = self.gradient(self.outer_loss, point)
        powers = [g / g.norm()]
        for _ in range(size - 1):
            power = matrix @ powers[-1]
            powers.append(power / power.norm())
        basis, _ = torch.linalg.qr(torch.stack(powers, dim=1))
        best: Tensor = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ g)
        return best

    def _descent(self, start: Tensor, lam: float) -> list[Tensor]:
        points = [start]
        for _ in range(self.steps):
            slope = self._proximal_gradient(points[-1], start, lam)
            points.append(points[-1] - self.step_size * slope)
        return points

    def _proximal_gradient(self, point: Tensor, anchor: Tensor, lam: float) -> Tensor:
        return self.gradient(self.inner_loss, point) + lam * (point - anchor)

    def _proximal_hessian(self, point: Tensor, lam: float) -> Tensor:
        return self.hessian(point) + lam * torch.eye(len(point), dtype=point.dtype)


def central_difference(
    function: Callable[[Tensor], float], point: Tensor, directions: Tensor
) -> Tensor:
    """Returns a scalar function's slopes along the rows of `directions`, to fourth order."""
    step = 1e-3
    slopes = []
    for direction in step * directions:
        near = function(point + direction) - function(point - direction)
        far = function(point + 2 * direction) - function(point - 2 * direction)
        slopes.append((8 * near - far) / (12 * step))
    return torch.tensor(slopes, dtype=point.dtype)
