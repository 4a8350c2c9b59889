"""Least squares for the coefficients of a weighted cascade, and the choice among fall-backs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from estimators.base.tree import Params, flat, norm

_WORST_CONDITION = 1e8  # of the scaled equations: some eight digits of each coefficient


@dataclass(frozen=True)
class Calibration:
    """Fitted coefficients.

    Attributes:
        coefficients: c_1, ..., c_L.
        error: root mean square over the probes of the relative error with these coefficients,
            each probe left out of the fit in turn where there are two or more.
        fell_back: why these are not the coefficients of the full fit; None where they are.
    """

    coefficients: tuple[float, ...]
    error: float
    fell_back: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return {**vars(self), "coefficients": [*self.coefficients]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Calibration":
        """Create a calibration from the result of `as_dict`.

        Args:
            fields: by name.

        Raises:
            KeyError: a field is missing.
            ValueError: a field is not what `as_dict` returns.
        """
        numbers, error, reason = (fields[n] for n in ("coefficients", "error", "fell_back"))
        if not isinstance(numbers, list | tuple) or not isinstance(reason, str | None):
            raise ValueError(f"coefficients={numbers!r}, fell_back={reason!r}")
        result = cls(tuple(map(float, numbers)), float(error), reason)
        if not all(map(math.isfinite, result.coefficients)) or not 0 <= result.error < math.inf:
            raise ValueError(f"coefficients={numbers!r}, error={error!r}")
        return result


@dataclass(frozen=True)
class Probe:
    """One probe problem, reduced to what a fit needs, in units of ||exact||.

    Attributes:
        factor: float64 [m, L+1], m <= L+1, on the CPU: the triangular factor of the matrix with
            the columns e_1, ..., e_L and what Eq. 8 leaves, exact - g - e_1 - ... - e_L. Of
            these, and not of exact - g, so that small errors are no differences of large numbers.
    """

    factor: Tensor

    @classmethod
    def of(cls, sums: Sequence[Params], g: Params, exact: Params) -> "Probe | None":
        """Compute the factor; None where the exact meta-gradient is not finite, or only rounding.

        Args:
            sums: e_1, ..., e_L.
            g: the outer gradient.
            exact: the exact meta-gradient.
        """
        unit = norm(exact)
        rounding = max(torch.finfo(value.dtype).eps for value in g.values())
        if not 10 * rounding * norm(g) < unit < math.inf:
            return None
        columns = [flat(each).double() for each in sums]
        rest = flat(exact).double() - flat(g).double() - torch.stack(columns).sum(0)
        matrix = torch.stack([*columns, rest], dim=1) / unit
        if not matrix.isfinite().all():
            return None
        return cls(torch.linalg.qr(matrix, mode="r").R.cpu())

    def squared_error(self, coefficients: Tensor) -> float:
        """Return ||g + sum_l c_l e_l - exact||^2 / ||exact||^2.

        Args:
            coefficients: float64 [L].
        """
        missing = torch.cat([1 - coefficients, coefficients.new_ones(1)])
        return float((self.factor @ missing).square().sum())


def fit(probes: Sequence[Probe], order: int) -> Calibration:
    """Fit c_1, ..., c_L, or fall back to coefficients that do better on probes that were left out.

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
        reason = f"the coefficients of the first {used} of {order} levels fit best"
        candidates.append((error, _calibration(solution, error, None if used == order else reason)))
    for value, name in ((1.0, "Eq. 8 (all 1)"), (0.0, "fomaml (all 0)")):
        fixed = probes[0].factor.new_full((order,), value)
        error = _rms([probe.squared_error(fixed) for probe in probes])
        reason = f"the fit was ill-conditioned or no better than the coefficients of {name}"
        candidates.append((error, _calibration(fixed, error, reason)))
    return min(candidates, key=lambda pair: pair[0])[1]


def _left_out(probes: Sequence[Probe], used: int, order: int) -> list[tuple[Probe, Tensor]]:
    """Pair each probe with the coefficients fitted to the others, or to itself if there is none."""
    pairs = []
    for index, probe in enumerate(probes):
        others = [*probes[:index], *probes[index + 1 :]] or [probe]
        solution = _solve(others, used, order)
        zero = probes[0].factor.new_zeros(order)
        pairs.append((probe, zero if solution is None else solution))
    return pairs


def _solve(probes: Sequence[Probe], used: int, order: int) -> Tensor | None:
    """Solve for the first `used` coefficients, the others being 0; columns have unit length."""
    stacked = torch.cat([probe.factor for probe in probes])
    matrix, right = stacked[:, :used], stacked[:, used:].sum(1)
    scale = torch.linalg.vector_norm(matrix, dim=0)
    if not (scale > 0).all() or not len(matrix) >= used:
        return None
    u, values, v_t = torch.linalg.svd(matrix / scale, full_matrices=False)
    if not values[0] < _WORST_CONDITION * values[-1]:
        return None
    solution = probes[0].factor.new_zeros(order)
    solution[:used] = 1 + v_t.T @ ((u.T @ right) / values) / scale
    return solution


def _rms(squares: list[float]) -> float:
    return math.sqrt(math.fsum(squares) / len(squares))


def _calibration(coefficients: Tensor, error: float, reason: str | None) -> Calibration:
    return Calibration(tuple(coefficients.tolist()), error, reason)
