"""What inner products of repeated errors tell: their bias, their spread, and how sure that is.

Of each task there are R estimates by independent draws, with the errors e_r. Their Gram matrix,
<e_q, e_r>, has all that is needed, however many parameters there are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from estimators import Params
from estimators.base.tree import axpy, dot, scaled

_QUANTILE = 1.645  # of the normal distribution, to one side
_FEWEST = 10.0  # draws that weigh in; with fewer, what is rare has been missed too often


def gram(errors: Sequence[Params]) -> Tensor:
    """Return the Gram matrix of some errors, in float64, on the CPU."""
    rows = [
        torch.stack([error[name].reshape(-1) for error in errors]).double() for name in errors[0]
    ]
    return torch.stack([(each @ each.T).cpu() for each in rows]).sum(0)


def squared_bias(products: Tensor) -> float:
    """Return an estimate of ||E e||^2 without bias, which may be negative.

    ||mean e||^2 - s^2/R = sum_{q != r} <e_q, e_r> / (R (R-1)).
    """
    count = len(products)
    return _apart(products) / (count * (count - 1))


def variance(products: Tensor) -> float:
    """Return s^2 = 1/(R-1) sum_r ||e_r - mean e||^2."""
    return float(_centred(products).trace()) / (len(products) - 1)


def mean_square(products: Tensor) -> float:
    """Return 1/R sum_r ||e_r||^2."""
    return float(products.trace()) / len(products)


def known_squares(errors: Sequence[Params], weights: Sequence[float]) -> tuple[float, float, float]:
    """Return squared bias, variance and mean square, where each error has a known probability.

    Args:
        errors: all that there can be.
        weights: their probabilities.
    """
    mean = scaled(0.0, errors[0])
    for weight, error in zip(weights, errors, strict=True):
        mean = axpy(weight, error, mean)
    apart = (axpy(-1.0, mean, error) for error in errors)
    spread = sum(w * dot(a, a) for w, a in zip(weights, apart, strict=True))
    bias = dot(mean, mean)
    return bias, spread, bias + spread


def chance_without_bias(grams: Sequence[Tensor], flips: int = 9_999) -> float:
    """Return how often errors without bias would look as biased as those of some tasks; 1 if many.

    A sign-flip test on the sum of `squared_bias`: errors that are symmetric about 0 are as likely
    with other signs. Skewed ones are nearly so in sums over many draws; where but a few draws
    make up nearly all of the sum of squares, nothing is known, and 1 is returned. The signs are
    fixed.

    Args:
        grams: of independent draws, R of each task, relative to the same unit.
        flips: how many signs are tried.
    """
    squares = torch.cat([products.diagonal() for products in grams])
    if not squares.any() or _weighing(squares) < _FEWEST:
        return 1.0
    generator = torch.Generator("cpu").manual_seed(0)
    found = sum(map(_apart, grams))
    tried = torch.zeros(flips, dtype=torch.float64, device="cpu")
    for products in grams:
        size = flips, len(products)
        signs = 2.0 * torch.randint(2, size, generator=generator, device="cpu").double() - 1
        tried += ((signs @ products) * signs).sum(1) - products.trace()
    rounding = 1e-12 * float(squares.sum())
    return (1 + int((tried >= found - rounding).sum())) / (1 + flips)


def bias_limit(grams: Sequence[Tensor]) -> float:
    r"""Return what the root mean square over tasks of ||E e|| is below, at the 95 % level.

    The largest B = sum_t ||E e_t||^2 with B - T <= 1.645 sd(T), T being the sum of `squared_bias`:
    var(T) is at most V + 4 B v / R, with V that of centred errors, and v the largest variance in
    any direction. Where errors are nearly one-dimensional it is up to half too large.
    """
    repeats = len(grams[0])
    found = sum(map(squared_bias, grams))
    centred = [_centred(products) for products in grams]
    largest = max(float(torch.linalg.eigvalsh(each)[-1]) for each in centred) / (repeats - 1)
    noise = sum(_apart(each.square()) for each in centred) * 2 / (repeats * (repeats - 1)) ** 2
    middle = found + 2 * _QUANTILE**2 * largest / repeats
    root = math.sqrt(max(0.0, middle**2 - found**2 + _QUANTILE**2 * noise))
    return math.sqrt(max(0.0, middle + root) / len(grams))


def _weighing(squares: Tensor) -> float:
    """Return how many draws make up the sum of squares: all of them if they are alike."""
    return float(squares.sum() ** 2 / squares.square().sum())


def _apart(products: Tensor) -> float:
    """Return the sum off the diagonal."""
    return float(products.sum() - products.trace())


def _centred(products: Tensor) -> Tensor:
    """Return the Gram matrix of errors less their mean."""
    means = products.mean(0)
    return products - means - means[:, None] + means.mean()
