"""Many gradient steps of a quadratic at the price of a few Hessian-vector products."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from estimators.base.tree import unrounded

_MOST = 2.0  # alpha times an eigenvalue, beyond which gradient descent does not converge
_LEAST = 1e-2  # eigenvalues that are inverted, over the largest one


def lanczos_steps(
    product: Callable[[Tensor, bool], Tensor],
    vector: Tensor,
    *,
    steps: int,
    order: int,
    alpha: float,
) -> tuple[Tensor, int]:
    """Approximate (I - alpha H)^n v by `order` Lanczos steps on H from v.

    With V the orthonormal basis of v, H v, ..., H^L v that they make, and T = V^T H V, the result
    is ||v|| V (I - alpha T)^n e_1. The last diagonal entry of T, which would take one product more,
    is the least that leaves T positive semidefinite where the rest is: that of the Nystrom
    approximation H V_L (V_L^T H V_L)^-1 V_L^T H of H. A direction whose eigenvalue is beyond
    2 / alpha is taken to have died out, since no inner loop that converges has one.

    Args:
        product: takes the product of H with a vector, and whether it is the last one.
        vector: v, of one dimension.
        steps: n, 1 or more.
        order: L, 1 or more; fewer products are taken where they span all that H makes of v.
        alpha: the step size.

    Returns:
        The vector, and the number of products taken.

    Example:
        >>> import torch
        >>> h = torch.tensor([1.0, 2.0])
        >>> ones, times_h = torch.ones(2), lambda v, _: h * v
        >>> vector, _ = lanczos_steps(times_h, ones, steps=3, order=2, alpha=0.5)
        >>> (8 * vector).round()
        tensor([1., 0.])
    """
    length = _length(vector)
    if not length:
        return vector, 0
    basis, diagonal, beside = [vector / length], list[float](), list[float]()
    exhausted = False
    while len(diagonal) < order and not exhausted:
        image = product(basis[-1], len(basis) == order)
        size = _length(image)
        if not math.isfinite(size):
            return torch.full_like(vector, math.nan), len(diagonal) + 1
        diagonal.append(float(torch.dot(basis[-1], image)))
        if order == 1 and diagonal[0] > 0:  # the same in closed form: H is of rank one
            curvature = size**2 / diagonal[0]
            within = alpha * curvature <= _MOST
            remains = (1 - alpha * curvature) ** steps if within else 0.0
            return vector + length * (remains - 1) / curvature * image, 1
        rows = torch.stack(basis)
        with unrounded(vector):
            for _ in range(2):  # once is not enough for vectors that are nearly in the space
                image = image - rows.T @ (rows @ image)
        rest = _length(image)
        exhausted = rest <= 100 * torch.finfo(vector.dtype).eps * size
        if not exhausted:
            beside.append(rest)
            basis.append(image / rest)
    values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
    left = torch.where(alpha * values <= _MOST, (1 - alpha * values) ** steps, 0.0)
    weights = length * (vectors @ (left * vectors[0]))
    with unrounded(vector):
        return weights.to(vector) @ torch.stack(basis), len(diagonal)


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    """Return T, with the entry that is missing where there is one diagonal entry too few."""
    known = torch.diag(torch.tensor(diagonal, dtype=torch.float64, device="cpu"))
    size = len(diagonal)
    for place, value in enumerate(beside[: size - 1]):
        known[place, place + 1] = known[place + 1, place] = value
    if len(beside) < size:
        return known
    values, vectors = torch.linalg.eigh(known)
    large = values > _LEAST * values.abs().max()
    inverse = torch.where(large, 1 / values, 0.0)
    full = torch.zeros(size + 1, size + 1, dtype=torch.float64, device="cpu")
    full[:size, :size] = known
    full[size, size - 1] = full[size - 1, size] = beside[-1]
    full[size, size] = beside[-1] ** 2 * (vectors[-1] ** 2 * inverse).sum()
    return full
