"""No Hessians that an assumption allows give an error above its bound; the worst ones reach it.

The errors are summed as the formulas are printed, over dense matrices, and share no code with
estimators/. An error in multiples of ||g||, for the worst g, is a spectral norm.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from estimators import OptionError
from estimators.bounds import (
    Assumption,
    Bounded,
    Convex,
    StronglyConvex,
    binom_bound,
    fomaml_bound,
    hybrid_bound,
    truncated_bound,
)

Matrices = NDArray[Any]  # (..., size, size), of float64 or of Fractions
Options = tuple[int, ...]

BOUNDS: dict[str, Callable[..., float]] = {
    "fomaml": fomaml_bound,
    "truncated": truncated_bound,
    "binom": binom_bound,
    "hybrid": hybrid_bound,
}
H = 2.0
LEAST = {  # eigenvalue that each assumption allows; the greatest is H
    Bounded(H): -H,
    Convex(H): 0.0,
    StronglyConvex(H, 0.3 * H): 0.3 * H,
    StronglyConvex(H, 0.99 * H): 0.99 * H,
}
CASES = [(assumption, x) for assumption in LEAST for x in (0.05, 0.4, 1.0)] + [(Bounded(H), 2.5)]
DEPTHS = (1, 2, 3, 5)
DEEPEST, DRAWS, SIZE = max(DEPTHS), 60, 4
SLACK = 1e-9
ROUNDING = 2e-15  # of the errors, in multiples of the largest norm that they can be summed from
ORDERS = [(steps, order) for steps in (0, *DEPTHS) for order in range(steps + 1)]
TINY = Fraction(1, 10**12)


# Errors, as printed. `hessians` is H_0, ..., H_{K-1} along its first axis.


def transition(hessians: Matrices, alpha: Any) -> Matrices:
    """A_0 ... A_{K-1}."""
    identity = np.eye(hessians.shape[-1], dtype=hessians.dtype)
    total: Matrices = identity
    for hessian in hessians:
        total = total @ (identity - alpha * hessian)
    return total


def subset_sum(hessians: Matrices, alpha: Any, order: int) -> Matrices:
    """Eq. 8 of arXiv 2604.13263, one subset k_1 < ... < k_l of the steps at a time."""
    identity = np.eye(hessians.shape[-1], dtype=hessians.dtype)
    total: Matrices = identity
    for size in range(1, order + 1):
        for subset in combinations(hessians, size):
            term: Matrices = identity
            for hessian in subset:
                term = term @ hessian
            total = total + (-alpha) ** size * term
    return total


def errors(hessians: Matrices, alpha: Any) -> Iterator[tuple[str, Options, Matrices]]:
    """Yield estimator, options and exact - estimate, for every order and every window."""
    steps = len(hessians)
    exact = transition(hessians, alpha)
    yield "fomaml", (), exact - np.eye(hessians.shape[-1], dtype=hessians.dtype)
    for order in range(steps + 1):
        yield "truncated", (order,), exact - transition(hessians[steps - order :], alpha)
        yield "binom", (order,), exact - subset_sum(hessians, alpha, order)
        for window in range(order, steps + 1):
            hybrid = subset_sum(hessians[steps - window :], alpha, order)
            yield "hybrid", (order, window), exact - hybrid


def scalar_errors(
    hessian: Fraction, alpha: Fraction, steps: int
) -> Iterator[tuple[str, Options, Fraction]]:
    """Yield the same where every H_k is the same multiple of I, without rounding."""
    for name, options, error in errors(np.full((steps, 1, 1), hessian, dtype=object), alpha):
        yield name, options, abs(Fraction(error.item()))


# Draws of Hessians with eigenvalues from `low` to `high`, those of DRAWS problems at once.


def turned(rng: np.random.Generator, eigenvalues: Matrices) -> Matrices:
    bases, _ = np.linalg.qr(rng.standard_normal((DEEPEST, DRAWS, SIZE, SIZE)))
    symmetric: Matrices = bases * eigenvalues[..., None, :] @ bases.swapaxes(-1, -2)
    return symmetric


def spread(rng: np.random.Generator, low: float, high: float) -> Matrices:
    return turned(rng, rng.uniform(low, high, (DEEPEST, DRAWS, SIZE)))


def at_the_ends(rng: np.random.Generator, low: float, high: float) -> Matrices:
    return turned(rng, rng.choice([low, high], (DEEPEST, DRAWS, SIZE)))


def one_high(rng: np.random.Generator, low: float, high: float) -> Matrices:
    """Of rank one where `low` is 0."""
    return turned(rng, np.array([high] + [low] * (SIZE - 1)))


def one_low(rng: np.random.Generator, low: float, high: float) -> Matrices:
    """A_k is of rank one where alpha = 1/high."""
    return turned(rng, np.array([low] + [high] * (SIZE - 1)))


def fan(rng: np.random.Generator, low: float, high: float) -> Matrices:
    """One low and one high direction in the plane, turned by the same angle in every step."""
    angles = np.arange(DEEPEST)[:, None] * rng.uniform(0, np.pi / 2, DRAWS)
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    flat: Matrices = direction[..., :, None] * direction[..., None, :]
    return high * np.eye(2) + (low - high) * flat


def multiples_of_identity(_: np.random.Generator, low: float, high: float) -> Matrices:
    """low I or high I in each step, in every combination."""
    scale = np.array(np.meshgrid(*[[low, high]] * DEEPEST)).reshape(DEEPEST, -1, 1, 1)
    return scale * np.eye(2)


@pytest.mark.parametrize(
    "draw", [spread, at_the_ends, one_high, one_low, fan, multiples_of_identity]
)
def test_no_error_is_above_its_bound(
    draw: Callable[[np.random.Generator, float, float], Matrices],
) -> None:
    for (assumption, x), steps in product(CASES, DEPTHS):
        hessians = draw(np.random.default_rng(0), LEAST[assumption], H)
        rounding = ROUNDING * (1 + x) ** steps
        for name, options, error in errors(hessians[:steps], x / H):
            bound = BOUNDS[name](assumption, x / H, steps, *options)
            worst = np.linalg.norm(error, 2, axis=(-2, -1)).max()
            assert worst <= bound * (1 + SLACK) + rounding, (assumption, x, steps, name, options)


@pytest.mark.parametrize("steps", DEPTHS)
def test_constant_curvature_attains_the_bounds(steps: int) -> None:
    def check(known: Assumption, curvature: float, alpha: Fraction, rel: float) -> None:
        for name, options, error in scalar_errors(Fraction(curvature), alpha, steps):
            bound = BOUNDS[name](known, float(alpha), steps, *options)
            strong = isinstance(known, StronglyConvex)
            if strong and name == "hybrid" and options[0] % 2 and options[1] < steps:
                assert bound >= float(error) * (1 - 1e-12)  # its parts are of opposite signs
            else:
                assert bound == pytest.approx(float(error), rel=rel, abs=0), (known, name, options)

    for x in (1e-6, 0.05, 0.4, 1.0, 2.5):
        check(Bounded(H), -H, Fraction(x) / Fraction(H), 1e-12)
        if x <= 1:
            check(StronglyConvex(H, H), H, Fraction(x) / Fraction(H), 1e-12)
    check(Convex(H), H, TINY / Fraction(H), 1e-10)


def test_bound_of_commuting_hessians_fails_the_others() -> None:
    # A_k projects onto the line at this angle, so that x = 1. Two projections turn g by 120
    # degrees, until it points away from where it was; commuting ones leave part of it, or none.
    angles = np.radians([120, 60])
    lines = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    hessians = np.eye(2) - lines[:, :, None] * lines[:, None, :]
    np.testing.assert_allclose(np.linalg.eigvalsh(hessians), [[0, 1], [0, 1]], atol=1e-15)
    error = {name: error for name, _, error in errors(hessians, 1.0)}["fomaml"]
    error_norm = np.linalg.norm(error @ [1.0, 0.0])
    assert error_norm == pytest.approx(math.sqrt(21) / 4)
    assert error_norm > 1 - (1 - 1.0) ** 2
    assert error_norm <= fomaml_bound(Convex(1.0), 1.0, 2)


def closed_forms(
    assumption: Assumption, x: Fraction, steps: int, order: int
) -> tuple[Fraction, Fraction, Fraction]:
    """Bound of fomaml, truncated and binom, as the table in the module prints them."""
    if type(assumption) is Bounded:
        binom = sum(math.comb(steps, size) * x**size for size in range(order + 1, steps + 1))
        whole = (1 + x) ** steps
        return whole - 1, whole - (1 + x) ** order, Fraction(binom)
    if not isinstance(assumption, StronglyConvex):
        return steps * x, (steps - order) * x, math.comb(steps, order + 1) * x ** (order + 1)
    ratio = Fraction(assumption.strong_convexity) / Fraction(assumption.smoothness)
    rho = 1 - ratio * x
    binom = sum(math.comb(m, order) * rho ** (steps - 1 - m) for m in range(order, steps))
    return (1 - rho**steps) / ratio, (rho**order - rho**steps) / ratio, x ** (order + 1) * binom


def test_bounds_are_the_closed_forms_and_those_of_hybrid_at_its_ends() -> None:
    shares = (Fraction(1, 2**40), Fraction(1, 32), Fraction(5, 8), Fraction(1))
    for assumption, x in product(LEAST, shares):
        alpha = float(x / Fraction(H))
        for steps, order in [*ORDERS, (40, 3), (40, 37)]:
            where = assumption, x, steps, order
            fomaml, truncated, binom = (
                pytest.approx(float(bound), rel=1e-12, abs=0)
                for bound in closed_forms(assumption, x, steps, order)
            )
            assert fomaml_bound(assumption, alpha, steps) == fomaml, where
            assert truncated_bound(assumption, alpha, steps, order) == truncated, where
            assert binom_bound(assumption, alpha, steps, order) == binom, where
            assert hybrid_bound(assumption, alpha, steps, 0, order) == fomaml, where
            assert hybrid_bound(assumption, alpha, steps, order, order) == truncated, where
            assert hybrid_bound(assumption, alpha, steps, order, steps) == binom, where


@pytest.mark.parametrize("x", [0.05, 0.4, 1.0])
def test_bounds_fall_as_more_is_known_and_as_more_is_taken(x: float) -> None:
    ladder = [Bounded(H), Convex(H)]
    ladder += [StronglyConvex(H, share * H) for share in (1e-12, 0.1, 0.5, 1.0)]
    for steps, order in ORDERS:
        for name, options in [("fomaml", ()), ("truncated", (order,)), ("binom", (order,))] + [
            ("hybrid", (order, window)) for window in range(order, steps + 1)
        ]:
            bounds = [BOUNDS[name](known, x / H, steps, *options) for known in ladder]
            assert bounds == sorted(bounds, reverse=True), (steps, name, options)
            assert bounds[2] == pytest.approx(bounds[1], rel=1e-10, abs=0)
    for steps in DEPTHS:
        for known in ladder:
            bounds = [truncated_bound(known, x / H, steps, order) for order in range(steps + 1)]
            assert bounds == sorted(bounds, reverse=True), (known, steps)


def test_bounds_of_great_depths_and_steps_and_of_linear_losses() -> None:
    for bound in (truncated_bound, binom_bound):
        assert bound(Bounded(1.0), 1000.0, 400, 200) == math.inf
        assert bound(Bounded(1.0), 1000.0, 200, 200) == 0
    exact = math.comb(2200, 1101) * Fraction(1, 4) ** 1101
    assert binom_bound(Convex(1.0), 0.25, 2200, 1100) == pytest.approx(float(exact), rel=1e-11)
    for known in (Bounded(0.0), Convex(0.0)):
        assert hybrid_bound(known, 10.0, 5, 2, 3) == binom_bound(known, 10.0, 5, 0) == 0


def test_arguments_out_of_their_range_are_refused() -> None:
    for smoothness in (0.1, 0.3, 3.0, 7.0, 49.0, 1e-300, 1e300, math.pi):
        for known in (Convex(smoothness), StronglyConvex(smoothness, smoothness)):
            assert fomaml_bound(known, 1 / smoothness, 1) == pytest.approx(1)
            with pytest.raises(OptionError, match="1/smoothness"):
                fomaml_bound(known, 1.0001 / smoothness, 1)
    wrong: dict[str, Callable[[], object]] = {
        r"smoothness=-1\.0": lambda: Bounded(-1.0),
        "smoothness=inf": lambda: Convex(math.inf),
        "smoothness=nan": lambda: StronglyConvex(math.nan, 1.0),
        r"strong_convexity=0\.0": lambda: StronglyConvex(1.0, 0.0),
        r"strong_convexity=1\.1": lambda: StronglyConvex(1.0, 1.1),
        r"step_size=0\.0": lambda: fomaml_bound(Bounded(1.0), 0.0, 1),
        "step_size=inf": lambda: truncated_bound(Bounded(1.0), math.inf, 1, 0),
        "step_size=nan": lambda: binom_bound(Convex(1.0), math.nan, 1, 0),
        "steps=-1": lambda: fomaml_bound(Bounded(1.0), 1.0, -1),
        r"order=3 .* 0\.\.2": lambda: truncated_bound(Bounded(1.0), 1.0, 2, 3),
        r"order=-1 .* 0\.\.2": lambda: binom_bound(Bounded(1.0), 1.0, 2, -1),
        r"order=4 .* 0\.\.2": lambda: hybrid_bound(Bounded(1.0), 1.0, 2, 4, 4),
        r"window=1 .* 2\.\.5": lambda: hybrid_bound(Bounded(1.0), 1.0, 5, 2, 1),
        r"window=6 .* 2\.\.5": lambda: hybrid_bound(Bounded(1.0), 1.0, 5, 2, 6),
    }
    for message, call in wrong.items():
        with pytest.raises(OptionError, match=message):
            call()
