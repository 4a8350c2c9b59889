"""Least squares for the coefficients of a weighted cascade, and the choice among fall-backs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.tree import Params, axpy, dot, norm

_WORST_CONDITION = 1e10  # of the scaled normal equations: some five digits of each coefficient


@dataclass(frozen=True)
class Calibration:
    """Coefficients and how they were found.

    Attributes:
        coefficients: c_1, ..., c_L.
        error: root mean square over the probes of the relative error with these coefficients,
            each probe left out of the fit in turn where there are two or more.
        fell_back: why these are not the coefficients of the full fit; None where they are.
    """

    coefficients: tuple[float, ...]
    error: float
    fell_back: str | None = None


@dataclass(frozen=True)
class Probe:
    """What a fit needs to know of one probe problem: inner products, in units of ||exact||.

    Attributes:
        gram: float64 [L, L], <e_i, e_j>.
        right: float64 [L], <e_i, exact - g>.
        square: ||exact - g||^2.
    """

    gram: Tensor
    right: Tensor
    square: float

    @classmethod
    def of(cls, sums: Sequence[Params], g: Params, exact: Params) -> "Probe | None":
        """Takes the inner products; None where the exact meta-gradient is zero or not finite.

        Args:
            sums: e_1, ..., e_L.
            g: the outer gradient.
            exact: the exact meta-gradient.
        """
        unit = norm(exact) ** 2
        if not 0 < unit < math.inf:
            return None
        rest = axpy(-1.0, g, exact)
        gram = torch.tensor([[dot(a, b) for b in sums] for a in sums], dtype=torch.float64)
        right = torch.tensor([dot(a, rest) for a in sums], dtype=torch.float64)
        if not (gram.isfinite().all() and right.isfinite().all()):
            return None
        return cls(gram / unit, right / unit, dot(rest, rest) / unit)

    def squared_error(self, coefficients: Tensor) -> float:
        """Returns ||g + sum_l c_l e_l - exact||^2 / ||exact||^2.

        Args:
            coefficients: float64 [L].
        """
        fitted = coefficients @ self.gram @ coefficients - 2 * coefficients @ self.right
        return max(0.0, self.square + float(fitted))


def fit(probes: Sequence[Probe], order: int) -> Calibration:
    """Fits c_1, ..., c_L, or falls back to what does better on probes that were left out.

    The candidates, in the order of preference where they do equally well: the full fit; fits of
    lower order; the coefficients of Eq. 8, all 1; those of `fomaml`, all 0. An ill-conditioned
    fit is no candidate.

    Args:
        probes: one or more.
        order: L, 1 or more.
    """
    candidates: list[tuple[float, Calibration]] = []
    for used in range(order, 0, -1):
        solution = _solve(probes, used, order)
        if solution is None:
            continue
        error = _rms([probe.squared_error(c) for probe, c in _left_out(probes, used, order)])
        reason = f"only the first {used} of {order} levels could be fitted well"
        candidates.append((error, _calibration(solution, error, None if used == order else reason)))
    for value, name in ((1.0, "Eq. 8 (all 1)"), (0.0, "fomaml (all 0)")):
        fixed = torch.full((order,), value, dtype=torch.float64)
        error = _rms([probe.squared_error(fixed) for probe in probes])
        reason = f"the fit was ill-conditioned or no better than the coefficients of {name}"
        candidates.append((error, _calibration(fixed, error, reason)))
    return min(candidates, key=lambda pair: pair[0])[1]


def _left_out(probes: Sequence[Probe], used: int, order: int) -> list[tuple[Probe, Tensor]]:
    """Pairs each probe with the coefficients fitted to the others (to itself if alone)."""
    pairs = []
    for index, probe in enumerate(probes):
        others = [*probes[:index], *probes[index + 1 :]] or [probe]
        solution = _solve(others, used, order)
        zero = torch.zeros(order, dtype=torch.float64)
        pairs.append((probe, zero if solution is None else solution))
    return pairs


def _solve(probes: Sequence[Probe], used: int, order: int) -> Tensor | None:
    """Solves the normal equations of the first `used` levels, scaled to a unit diagonal."""
    gram = torch.stack([probe.gram for probe in probes]).sum(0)[:used, :used]
    right = torch.stack([probe.right for probe in probes]).sum(0)[:used]
    scale = gram.diagonal().clamp_min(0).sqrt()
    if not (scale > 0).all():
        return None
    scaled = gram / scale.outer(scale)
    if not torch.linalg.cond(scaled) < _WORST_CONDITION:
        return None
    solution = torch.zeros(order, dtype=torch.float64)
    solution[:used] = torch.linalg.solve(scaled, right / scale) / scale
    return solution


def _rms(squares: list[float]) -> float:
    return math.sqrt(math.fsum(squares) / len(squares))


def _calibration(coefficients: Tensor, error: float, reason: str | None) -> Calibration:
    return Calibration(tuple(coefficients.tolist()), error, reason)
