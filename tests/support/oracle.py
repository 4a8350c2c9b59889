"""A slow and obvious reference: dense Hessians and formulas summed as they are printed.

It shares no code with what it checks. Vectors are flat, in the order of the parameters, and
everything is float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Loss = Callable[[dict[str, Tensor]], Tensor]


def flatten(params: dict[str, Tensor]) -> Tensor:
    """Return all entries as one vector, in the order of the dictionary."""
    return torch.cat([value.detach().reshape(-1) for value in params.values()])


def unflatten(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut a vector into tensors keyed and shaped as `like`; differentiable."""
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: piece.reshape(value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def relative_error(estimate: dict[str, Tensor], reference: Tensor) -> float:
    """Return the distance of an estimate from a reference, over the reference's norm if any."""
    return float((flatten(estimate) - reference).norm()) / (float(reference.norm()) or 1.0)


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
        """Return a loss at a flat point."""
        return loss(unflatten(point, self.theta))

    def gradient(self, loss: Loss, point: Tensor) -> Tensor:
        """Return a loss's gradient at a flat point."""
        flat = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.value(loss, flat), flat)
        return slope

    def hessian(self, point: Tensor) -> Tensor:
        """Return the inner loss's dense Hessian at a flat point."""
        hessian: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
            lambda flat: self.value(self.inner_loss, flat), point
        )
        return hessian

    def product(self, indices: list[int]) -> Tensor:
        """Return A_i A_j ... A_k g, the last index acting first, for indices i, j, ..., k."""
        vector = self.outer_gradient
        for k in reversed(indices):
            vector = vector - self.step_size * self.hessians[k] @ vector
        return vector

    def exact(self) -> Tensor:
        """Return A_0 ... A_{K-1} g."""
        return self.product(list(range(self.steps)))

    def truncated(self, order: int) -> Tensor:
        """Return A_{K-L} ... A_{K-1} g."""
        return self.product(list(range(self.steps - order, self.steps)))

    def subset_sum(self, size: int, window: int | None = None) -> Tensor:
        """Return the sum of H_{k_1} ... H_{k_l} g over the subsets k_1 < ... < k_l of one size.

        They are subsets of the last `window` steps where that is given, and of all steps else.
        """
        first = 0 if window is None else self.steps - window
        total = torch.zeros_like(self.outer_gradient)
        for subset in combinations(range(first, self.steps), size):
            term = self.outer_gradient
            for k in reversed(subset):
                term = self.hessians[k] @ term
            total = total + term
        return total

    def binomial(self, order: int, window: int | None = None, scale: float | None = None) -> Tensor:
        """Return Eq. 8 of arXiv 2604.13263, with `scale` in place of alpha if that is given."""
        alpha = self.step_size if scale is None else scale
        terms = [(-alpha) ** size * self.subset_sum(size, window) for size in range(order + 1)]
        return torch.stack(terms).sum(0)

    def reptile(self) -> Tensor:
        """Return the sum of the inner gradients along the descent."""
        return torch.stack([self.gradient(self.inner_loss, p) for p in self.iterates[:-1]]).sum(0)

    def proximal_descent(self, lam: float) -> Tensor:
        """Return phi_K of K steps on inner_loss(phi) + lam/2 ||phi - theta||^2."""
        return self._descent(flatten(self.theta), lam)[-1]

    def proximal_exact(self, lam: float) -> Tensor:
        """Return the derivative of the outer loss at that phi_K, its Jacobian carried forward."""
        *points, last = self._descent(flatten(self.theta), lam)
        identity = torch.eye(len(last), dtype=last.dtype)
        jacobian = identity
        for point in points:
            slope = self._proximal_hessian(point, lam) @ jacobian - lam * identity
            jacobian = jacobian - self.step_size * slope
        return jacobian.T @ self.gradient(self.outer_loss, last)

    def proximal_minimiser(self, lam: float) -> Tensor:
        """Return the minimiser of inner_loss(phi) + lam/2 ||phi - theta||^2, by Newton steps."""
        point = start = flatten(self.theta)
        slope = self._proximal_gradient(point, start, lam)
        while slope.norm() > 1e-12:
            point = point - torch.linalg.solve(self._proximal_hessian(point, lam), slope)
            slope = self._proximal_gradient(point, start, lam)
        assert torch.linalg.eigvalsh(self._proximal_hessian(point, lam)).min() > 0
        return point

    def implicit(self, point: Tensor, lam: float) -> Tensor:
        """Return (I + H/lam)^{-1} g with H and g at a flat point."""
        g = self.gradient(self.outer_loss, point)
        solution: Tensor = torch.linalg.solve(self._proximal_hessian(point, lam) / lam, g)
        return solution

    def nystrom(self, point: Tensor, lam: float, indices: list[int]) -> Tensor:
        """Return (I + C M^+ C^T / lam)^{-1} g, M^+ of the curvatures above .001 of the largest."""
        columns = self.hessian(point)[:, indices]
        curvatures, directions = torch.linalg.eigh(columns[indices])
        kept = curvatures > 1e-3 * curvatures.abs().max()
        inverses = torch.where(kept, 1 / torch.where(kept, curvatures, 1.0), 0.0)
        low_rank = columns @ directions @ inverses.diag() @ directions.T @ columns.T
        identity = torch.eye(len(point), dtype=point.dtype)
        g = self.gradient(self.outer_loss, point)
        solution: Tensor = torch.linalg.solve(identity + low_rank / lam, g)
        return solution

    def contrasted(self, lam: float, delta: float) -> Tensor:
        """Return lam (phi_{-delta} - phi_delta) / (2 delta) of nudged minimisers."""
        ends = [self.nudged(delta=sign * delta).proximal_minimiser(lam) for sign in (-1, 1)]
        return lam * (ends[0] - ends[1]) / (2 * delta)

    def nudged(self, delta: float) -> "Oracle":
        """Return the problem with delta outer losses in the inner one."""
        return replace(self, inner_loss=lambda p: self.inner_loss(p) + delta * self.outer_loss(p))

    def contrast(self, lam: float) -> Tensor:
        """Return -lam times the derivative of K proximal steps by the nudge, carried forward."""
        *points, last = self._descent(flatten(self.theta), lam)
        change = torch.zeros_like(last)
        for point in points:
            slope = self._proximal_hessian(point, lam) @ change
            change = change - self.step_size * (slope + self.gradient(self.outer_loss, point))
        return -lam * change

    def along_the_line(self) -> Tensor:
        """Return the exact product with Hessians at points evenly spaced from theta to phi_K."""
        first, last = self.iterates[0], self.iterates[-1]
        vector = self.outer_gradient
        for k in reversed(range(self.steps)):
            hessian = self.hessian((1 - k / self.steps) * first + k / self.steps * last)
            vector = vector - self.step_size * hessian @ vector
        return vector

    def leap(self, gamma: float, beta: float, place: int) -> tuple[Tensor, Tensor]:
        """Return phi_T = theta + gamma (phi_K - theta), and (I - beta H(phi_place)) g there."""
        first, last = self.iterates[0], self.iterates[-1]
        end = (1 - gamma) * first + gamma * last
        g = self.gradient(self.outer_loss, end)
        return end, g - beta * self.hessian(self.iterates[place]) @ g

    def leap_exact(self, gamma: float) -> Tensor:
        """Return the derivative of the outer loss at that phi_T."""
        _, g = self.leap(gamma, beta=0.0, place=0)
        vector = g
        for k in reversed(range(self.steps)):
            vector = vector - self.step_size * self.hessians[k] @ vector
        return (1 - gamma) * g + gamma * vector

    def neumann(self, point: Tensor, lam: float, terms: int) -> Tensor:
        """Return sum_{j=0..J} (-H/lam)^j g with H and g at a flat point."""
        matrix = -self.hessian(point) / lam
        powers = [torch.linalg.matrix_power(matrix, j) for j in range(terms + 1)]
        return torch.stack(powers).sum(0) @ self.gradient(self.outer_loss, point)

    def implicit_in_krylov_space(self, point: Tensor, lam: float, size: int) -> Tensor:
        """Return the best approximation of `implicit` in span{g, A g, ..., A^{size-1} g}.

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


@dataclass(frozen=True)
class Descent:
    """Descent with a step size for each entry, and with momentum; Jacobians carried forward.

    v_{k+1} = mu v_k + grad inner_loss(phi_k),  phi_{k+1} = phi_k - a v_{k+1}.

    Attributes:
        reference: the losses, K and theta; its own step size is not used.
        sizes: a, tensors that broadcast to the parameters.
        momentum: mu.
        velocity: v_0, flat; zero if it is not given.
    """

    reference: Oracle
    sizes: dict[str, Tensor]
    momentum: float = 0.0
    velocity: Tensor | None = None

    @cached_property
    def states(self) -> list[tuple[Tensor, Tensor]]:
        """(phi_0, v_0), ..., (phi_K, v_K)."""
        reference, sizes = self.reference, self._spread @ flatten(self.sizes)
        phi = flatten(reference.theta)
        v = torch.zeros_like(phi) if self.velocity is None else self.velocity
        states = [(phi, v)]
        for _ in range(reference.steps):
            v = self.momentum * v + reference.gradient(reference.inner_loss, phi)
            phi = phi - sizes * v
            states.append((phi, v))
        return states

    @property
    def adapted(self) -> Tensor:
        """phi_K."""
        return self.states[-1][0]

    @property
    def outer_gradient(self) -> Tensor:
        """The gradient of the outer loss at phi_K."""
        return self.reference.gradient(self.reference.outer_loss, self.adapted)

    @cached_property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """The derivatives of the outer loss at phi_K by theta and by the sizes, v_0 fixed."""
        sizes = (self._spread @ flatten(self.sizes)).diag()
        by_theta = torch.eye(len(sizes), dtype=sizes.dtype)
        by_sizes = torch.zeros_like(self._spread)
        v_by_theta, v_by_sizes = torch.zeros_like(by_theta), torch.zeros_like(by_sizes)
        for (phi, _), (_, v) in pairwise(self.states):
            hessian = self.reference.hessian(phi)
            v_by_theta = self.momentum * v_by_theta + hessian @ by_theta
            v_by_sizes = self.momentum * v_by_sizes + hessian @ by_sizes
            by_theta = by_theta - sizes @ v_by_theta
            by_sizes = by_sizes - sizes @ v_by_sizes - v.diag() @ self._spread
        return by_theta.T @ self.outer_gradient, by_sizes.T @ self.outer_gradient

    def last(self, steps: int) -> "Descent":
        """Return the last steps as a descent of their own, from where those before them led."""
        phi, v = self.states[self.reference.steps - steps]
        start = unflatten(phi, self.reference.theta)
        return replace(
            self, reference=replace(self.reference, steps=steps, theta=start), velocity=v
        )

    @cached_property
    def _spread(self) -> Tensor:
        """The matrix that takes the entries of the sizes to those of the parameters."""
        places = unflatten(torch.arange(len(flatten(self.sizes))), self.sizes)
        columns = {n: places[n].expand_as(value) for n, value in self.reference.theta.items()}
        return one_hot(flatten(columns), len(flatten(self.sizes))).double()


def central_difference(
    function: Callable[[Tensor], float], point: Tensor, directions: Tensor
) -> Tensor:
    """Return a scalar function's slopes along the rows of `directions`, to fourth order."""
    step = 1e-3
    slopes = []
    for direction in step * directions:
        near = function(point + direction) - function(point - direction)
        far = function(point + 2 * direction) - function(point - 2 * direction)
        slopes.append((8 * near - far) / (12 * step))
    return torch.tensor(slopes, dtype=point.dtype)
