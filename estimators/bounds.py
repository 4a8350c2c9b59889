"""How far an estimate can be from the exact meta-gradient, by what is known of the curvature.

With H_k the Hessian of the inner loss at phi_k, A_k = I - alpha H_k and g the outer gradient,
every bound is in multiples of ||g||, and is a sum of norms over one of two identities:

    exact - truncated = -alpha sum_{k=0..K-L-1} A_0 ... A_{k-1} H_k A_{K-L} ... A_{K-1} g
    exact - binom = (-alpha)^{L+1} sum_{k_1<...<k_{L+1}} A_0 ... A_{k_1-1} H_{k_1} ... H_{k_{L+1}} g

An assumption gives ||alpha H_k|| <= x = alpha H and ||A_k|| <= rho. It enters by rho alone:

    assumption        rho            fomaml              truncated               binom
    Bounded           1 + x          (1+x)^K - 1         (1+x)^K - (1+x)^L       Eq. 11c
    Convex            1              K x                 (K-L) x                 Eq. 12c
    StronglyConvex    1 - alpha h    (H/h)(1 - rho^K)    (H/h)(rho^L - rho^K)    see `binom_bound`

    Eq. 11c: sum_{l=L+1..K} C(K, l) x^l        Eq. 12c: C(K, L+1) x^{L+1}

These closed forms subtract nearly equal numbers when x or h is small. The functions add up the
positive terms that they come from, one formula for all assumptions, and overflow to inf.

All are 0 at L = K, and those of order 0 equal that of `fomaml`. None is below another whose
assumption is stronger, step size and H being the same.

Source: Zhang et al., "Binomial Gradient-Based Meta-Learning for Enhanced Meta-Gradient
Estimation", ICLR 2026, arXiv 2604.13263: Theorem 3.6 (`Bounded`) and Theorem 3.8 (`Convex`) for
`binom`, Eqs. 11c and 12c. Everything else was derived for this project; `StronglyConvex` stands in
for Theorem 3.10.
"""

import math
from dataclasses import dataclass

from estimators.base.errors import OptionError
from estimators.base.estimator import Assumption

__all__ = [
    "Assumption",
    "Bounded",
    "Convex",
    "StronglyConvex",
    "binom_bound",
    "fomaml_bound",
    "hybrid_bound",
    "truncated_bound",
]


@dataclass(frozen=True)
class Bounded(Assumption):
    """||H_k|| <= H: the inner loss is smooth; its curvature may be negative. Any step size.

    rho = 1 + alpha H. Each bound is attained, by H_k = -H I; that of `hybrid` too.

    Attributes:
        smoothness: H.

    Raises:
        OptionError: the smoothness is negative or not finite.

    Source: arXiv 2604.13263, Theorem 3.6.

    Example:
        >>> fomaml_bound(Bounded(smoothness=10.0), step_size=0.1, steps=5)  # (1+x)^K - 1
        31.0
    """

    def jacobian_norm(self, step_size: float) -> float:
        """See `Assumption.jacobian_norm`."""
        return 1.0 + step_size * self.smoothness


@dataclass(frozen=True)
class Convex(Assumption):
    """0 <= H_k <= H I, alpha <= 1/H: the inner loss is smooth and convex.

    rho = 1. The bounds are attained in the limit of small x, by H_k = H I.

    Attributes:
        smoothness: H.

    Raises:
        OptionError: the smoothness is negative or not finite.

    Source: arXiv 2604.13263, Theorem 3.8.

    Example:
        >>> fomaml_bound(Convex(smoothness=10.0), step_size=0.1, steps=5)  # K x
        5.0
    """

    def jacobian_norm(self, step_size: float) -> float:
        """See `Assumption.jacobian_norm`.

        Raises:
            OptionError: alpha > 1/H.
        """
        # As a product, for H = 0 has no 1/H. Rounding never takes (1/H) H above 1.
        if step_size * self.smoothness > 1:
            limit = 1 / self.smoothness
            raise OptionError(f"step_size={step_size} must be at most 1/smoothness = {limit}")
        return 1.0


@dataclass(frozen=True)
class StronglyConvex(Convex):
    """h I <= H_k <= H I, alpha <= 1/H: the inner loss is smooth and strongly convex.

    rho = 1 - alpha h. Each bound is attained where h = H, that of `hybrid` for even L.

    Attributes:
        smoothness: H.
        strong_convexity: h, 0 < h <= H.

    Raises:
        OptionError: the smoothness is negative or not finite, or h is outside its range.

    Source: derived for this project.

    Example:
        >>> landscape = StronglyConvex(smoothness=10.0, strong_convexity=5.0)
        >>> fomaml_bound(landscape, step_size=0.1, steps=5)  # (H/h)(1 - rho^K)
        1.9375
    """

    strong_convexity: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.strong_convexity <= self.smoothness:
            raise OptionError(
                f"strong_convexity={self.strong_convexity} must be positive and at most "
                f"smoothness={self.smoothness}; Convex is for 0"
            )

    def jacobian_norm(self, step_size: float) -> float:
        """See `Assumption.jacobian_norm`."""
        return super().jacobian_norm(step_size) - step_size * self.strong_convexity


def fomaml_bound(assumption: Assumption, step_size: float, steps: int) -> float:
    """Bound the error of `fomaml`: x sum_{k=0..K-1} rho^k.

    Bounded: (1+x)^K - 1. Convex: K x. StronglyConvex: (H/h)(1 - rho^K).
    1 - (1-x)^K is no bound for convex losses: it holds only where the H_k commute.

    Args:
        assumption: what is known of the Hessians.
        step_size: alpha > 0.
        steps: K >= 0, the depth.

    Returns:
        What ||exact - fomaml|| / ||g|| cannot exceed.

    Raises:
        OptionError: the step size or the depth is outside its range.

    Source: derived for this project.

    Example:
        >>> fomaml_bound(Bounded(smoothness=5.0), step_size=0.1, steps=2)  # 1.5^2 - 1
        1.25
    """
    return binom_bound(assumption, step_size, steps, order=0)


def truncated_bound(assumption: Assumption, step_size: float, steps: int, order: int) -> float:
    """Bound the error of `truncated(order=L)`: x rho^L sum_{k=0..K-L-1} rho^k.

    Bounded: (1+x)^K - (1+x)^L. Convex: (K-L) x. StronglyConvex: rho^L (H/h)(1 - rho^{K-L}).
    It never grows with L.

    Args:
        assumption: what is known of the Hessians.
        step_size: alpha > 0.
        steps: K >= 0, the depth.
        order: L, 0 <= L <= K.

    Returns:
        What ||exact - truncated|| / ||g|| cannot exceed.

    Raises:
        OptionError: an argument is outside its range.

    Source: derived for this project.

    Example:
        >>> truncated_bound(Bounded(smoothness=5.0), step_size=0.1, steps=2, order=1)  # 1.5^2 - 1.5
        0.75
    """
    _check_order(steps, order)
    bound = fomaml_bound(assumption, step_size, steps - order)
    rho = assumption.jacobian_norm(step_size)
    for _ in range(order):  # rho**order would raise where this becomes inf
        bound *= rho
    return bound


def binom_bound(assumption: Assumption, step_size: float, steps: int, order: int) -> float:
    """Bound the error of `binom(order=L)`: x^{L+1} sum_{m=L..K-1} C(m, L) rho^{K-1-m}.

    Bounded: sum_{l=L+1..K} C(K, l) x^l. Convex: C(K, L+1) x^{L+1}. StronglyConvex: as above.
    When bounded it never grows with L and is never above `truncated_bound`; otherwise it may do
    both: the convex one is the smaller where x < ((K-L) / C(K, L+1))^{1/L}.

    Args:
        assumption: what is known of the Hessians.
        step_size: alpha > 0.
        steps: K >= 0, the depth.
        order: L, 0 <= L <= K.

    Returns:
        What ||exact - binom|| / ||g|| cannot exceed.

    Raises:
        OptionError: an argument is outside its range.

    Source: arXiv 2604.13263, Eqs. 11c (Bounded) and 12c (Convex); the form that holds for all
    assumptions was derived for this project.

    Example:
        >>> binom_bound(Convex(smoothness=5.0), step_size=0.1, steps=3, order=1)  # C(3, 2) .5^2
        0.75
    """
    if not 0 < step_size < math.inf:
        raise OptionError(f"step_size={step_size} must be positive and finite")
    _check_order(steps, order)
    x, rho = step_size * assumption.smoothness, assumption.jacobian_norm(step_size)
    bound = 0.0
    for m in range(order, steps):
        # C(m, L) x^L, factor by factor: no huge integer, no power that underflows, meets a float.
        term = math.prod(x * (m - i) / (i + 1) for i in range(order))
        bound = rho * bound + x * term
    return bound


def hybrid_bound(
    assumption: Assumption, step_size: float, steps: int, order: int, window: int
) -> float:
    """Bound the error of `hybrid(order=L, window=C)`: what is cut off, plus what is expanded.

    truncated_bound of order C, plus binom_bound of order L at depth C: the estimate is `binom`
    on the last C steps, where truncation at C would be exact.
    C = K is `binom_bound`; L = C is `truncated_bound`; L = 0 is `fomaml_bound`, whatever C is.

    Args:
        assumption: what is known of the Hessians.
        step_size: alpha > 0.
        steps: K >= 0, the depth.
        order: L, 0 <= L <= K.
        window: C, L <= C <= K.

    Returns:
        What ||exact - hybrid|| / ||g|| cannot exceed.

    Raises:
        OptionError: an argument is outside its range.

    Source: derived for this project.

    Example:
        >>> hybrid_bound(Convex(smoothness=5.0), step_size=0.1, steps=5, order=1, window=3)
        1.75
    """
    _check_order(steps, order)
    if not order <= window <= steps:
        raise OptionError(
            f"window={window} is outside {order}..{steps} "
            f"(the order is {order}, the depth is {steps})"
        )
    cut_off = truncated_bound(assumption, step_size, steps, window)
    return cut_off + binom_bound(assumption, step_size, window, order)


def _check_order(steps: int, order: int) -> None:
    if steps < 0:
        raise OptionError(f"steps={steps} must be 0 or more")
    if not 0 <= order <= steps:
        raise OptionError(f"order={order} is outside 0..{steps} (the depth is {steps})")
