"""Bias and spread of repeated errors: literal sums, levels of the test, and limits."""

import pytest
import torch
from torch import Tensor

from harness.matrix.metrics import LEVEL
from harness.probes.gram import (
    bias_limit,
    chance_without_bias,
    gram,
    mean_square,
    squared_bias,
    variance,
)

REPEATS, TASKS = 32, 8


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def products(errors: Tensor) -> Tensor:
    return errors @ errors.T


def coins(seed: int, q: float) -> list[Tensor]:
    """Errors as those of `ufom`: along one direction, skewed, without bias."""
    drawn = torch.rand(TASKS, REPEATS, 1, generator=source(seed), dtype=torch.float64)
    return [*((drawn < q).double() / q - 1)]


def normal(seed: int, size: int) -> list[Tensor]:
    return [*torch.randn(TASKS, REPEATS, size, generator=source(seed), dtype=torch.float64)]


def test_moments_are_those_of_the_errors() -> None:
    errors = 2 + torch.randn(7, 5, generator=source(0), dtype=torch.float64)
    found = gram([{"a": row[:2].reshape(1, 2), "b": row[2:].float()} for row in errors])
    torch.testing.assert_close(found, products(errors), rtol=1e-6, atol=1e-6)
    found = products(errors)
    pairs = [float(errors[i] @ errors[j]) for i in range(7) for j in range(7) if i != j]
    assert squared_bias(found) == pytest.approx(sum(pairs) / 42)
    assert variance(found) == pytest.approx(float(errors.var(0, correction=1).sum()))
    assert mean_square(found) == pytest.approx(float(errors.square().sum(1).mean()))


def test_squared_bias_is_unbiased() -> None:
    mean = torch.tensor([0.3, -0.4], dtype=torch.float64)
    draws = torch.randn(20_000, 4, 2, generator=source(0), dtype=torch.float64) + mean
    found = torch.tensor([squared_bias(products(each)) for each in draws])
    assert float(found.mean()) == pytest.approx(0.25, abs=4 * float(found.std()) / 20_000**0.5)


@pytest.mark.parametrize("kind", ["line", "plane", "space", "coins", "rare coins"])
def test_level_and_limit_hold_for_errors_without_bias(kind: str) -> None:
    makes = {
        "line": lambda seed: normal(seed, 1),
        "plane": lambda seed: normal(seed, 5),
        "space": lambda seed: normal(seed, 200),
        "coins": lambda seed: coins(seed, 0.2),
        "rare coins": lambda seed: coins(seed, 0.03),
    }
    trials = 150
    alarms, covered = 0, 0
    for seed in range(trials):
        errors = makes[kind](seed)
        alarms += chance_without_bias([products(each) for each in errors], flips=199) <= LEVEL
        shifted = [each + each.new_tensor([0.5] + [0.0] * (each.shape[1] - 1)) for each in errors]
        covered += bias_limit([products(each) for each in shifted]) >= 0.5
    assert alarms <= 16  # of 7.5 expected; more have a chance of 0.2 %
    assert covered >= 0.93 * trials


def test_bias_is_found() -> None:
    for errors in (normal(0, 1), normal(0, 50), coins(0, 0.2)):
        shift = torch.zeros(errors[0].shape[1], dtype=torch.float64)
        shift[0] = 2.0
        grams = [products(each + shift) for each in errors]
        assert chance_without_bias(grams) == pytest.approx(1e-4)
        assert bias_limit(grams) > 2
        assert sum(map(squared_bias, grams)) / TASKS == pytest.approx(4, rel=0.3)


def test_errors_that_say_nothing() -> None:
    nothing = [torch.zeros(REPEATS, REPEATS, dtype=torch.float64)] * 2
    assert (chance_without_bias(nothing), bias_limit(nothing)) == (1.0, 0.0)
    lone = torch.zeros(REPEATS, 1, dtype=torch.float64)
    lone[0] = 100.0  # a single draw has it all
    assert chance_without_bias([products(lone)]) >= 1
    same = [products(torch.ones(REPEATS, 3, dtype=torch.float64))]
    assert chance_without_bias(same) < LEVEL
    assert bias_limit(same) == pytest.approx(3**0.5)
