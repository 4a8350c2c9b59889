"""Weights of binomial sums that fit the product of all steps, over a range of curvatures."""

from collections.abc import Sequence

import torch
from torch import Tensor

_NODES = 64
_ROUNDING = 1e-12  # of singular values, over the largest; and of the fit


def chebyshev_weights(profile: Sequence[float], order: int) -> Tensor:
    """Fit c_1, ..., c_L so that 1 + sum_l c_l e_l(t) ~ prod_k (1 - t r_k) for all t in [0, 1].

    Here e_l(t) = sum over k_1 < ... < k_l of (-t)^l r_{k_1} ... r_{k_l}: what `elementary_sums` has
    for Hessians with the eigenvalue t r_k / alpha. Least squares at Chebyshev nodes;
    where 1 each, the weights of Eq. 8, will do as well, they are these.

    Args:
        profile: r_k, alpha times the largest curvature, for each inner step.
        order: L, 0 to the number of steps.

    Returns:
        The weights, float64 [L].

    Example:
        >>> [round(c, 3) for c in chebyshev_weights([1.16] * 5, order=2).tolist()]
        [0.567, 0.178]
    """
    sums, product = _sums(profile, order)
    taylor = sums.new_ones(order)
    if order == len(profile):
        return taylor
    scale = sums.abs().amax(0).clamp_min(torch.finfo(sums.dtype).tiny)
    inverse: Tensor = torch.linalg.pinv(sums / scale, rtol=_ROUNDING)
    weights = inverse @ (product - 1) / scale
    errors = [float((1 + sums @ each - product).abs().max()) for each in (taylor, weights)]
    return taylor if errors[0] <= max(errors[1], _ROUNDING) else weights


def chebyshev_error(profile: Sequence[float], weights: Tensor) -> float:
    """Return the largest |1 + sum_l c_l e_l(t) - prod_k (1 - t r_k)| at the nodes.

    For equal Hessians without negative eigenvalues ||estimate - exact|| <= this ||g||, but for
    what lies between nodes.

    Args:
        profile: r_k, for each inner step.
        weights: c_1, ..., c_L.

    Example:
        >>> round(chebyshev_error([0.5] * 5, chebyshev_weights([0.5] * 5, order=2)), 3)
        0.03
    """
    sums, product = _sums(profile, len(weights))
    return float((1 + sums @ weights - product).abs().max())


def _sums(profile: Sequence[float], order: int) -> tuple[Tensor, Tensor]:
    """Return e_1, ..., e_L as columns, and the product, both at all nodes."""
    angles = (torch.arange(_NODES, dtype=torch.float64, device="cpu") + 0.5) * torch.pi / _NODES
    nodes = (1 + torch.cos(angles)) / 2
    product = torch.ones_like(nodes)
    sums = torch.zeros(_NODES, order + 1, dtype=torch.float64, device="cpu")
    sums[:, 0] = 1
    for size in profile:
        step = -size * nodes
        product = product * (1 + step)
        sums[:, 1:] += step[:, None] * sums[:, :-1].clone()
    return sums[:, 1:], product
