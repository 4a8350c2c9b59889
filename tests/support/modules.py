"""Modules, and their problems written by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from estimators import (
    BilevelProblem,
    MetaGradient,
    module_problem,
)
from estimators.base.module_loss import Batch, Criterion
from tests.support.oracle import Loss, flatten, relative_error

SPECS = [
    "maml",
    "adjoint",
    "adjoint(engine='func')",
    "fomaml",
    "truncated(order=2)",
    "binom(order=2)",
    "binom(order=2, batching='vmap')",
    "binom-calibrated(order=2)",
    "anil",
    "imaml(lam=2.0)",
    "reptile",
]


STEPS, STEP_SIZE = 3, 0.1
EXACT = 1e-12


class Draws:
    """Repeatable normal draws."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in float64, its parameters drawn anew."""
    draws = Draws(seed)
    module = module.double()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.5 * draws.normal(*value.shape))
    return module


def mlp() -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)))


def conv_net(norm: nn.Module | None = None) -> nn.Module:
    return seeded(
        nn.Sequential(
            nn.Conv2d(1, 3, 3),
            norm or nn.BatchNorm2d(3, track_running_stats=False),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(27, 2),
        )
    )


def regression(seed: int) -> Batch:
    draws = Draws(seed)
    return draws.normal(6, 3), draws.normal(6, 2)


def images(seed: int) -> Batch:
    return Draws(seed).normal(6, 1, 5, 5), torch.arange(6) % 2


def problem_of(
    module: nn.Module,
    criterion: Criterion = functional.mse_loss,
    support: Batch | None = None,
    query: Batch | None = None,
) -> BilevelProblem:
    return module_problem(
        module,
        criterion,
        support or regression(1),
        query or regression(2),
        step_size=STEP_SIZE,
        steps=STEPS,
    )


def image_problem(module: nn.Module) -> BilevelProblem:
    return problem_of(module, functional.cross_entropy, images(1), images(2))


def by_hand(inner_loss: Loss, outer_loss: Loss) -> BilevelProblem:
    return BilevelProblem(inner_loss, outer_loss, STEP_SIZE, STEPS)


def assert_same(one: MetaGradient, other: MetaGradient) -> None:
    assert list(one.gradient) == list(other.gradient)
    assert relative_error(one.gradient, flatten(other.gradient)) < EXACT
    assert relative_error(one.adapted, flatten(other.adapted)) < EXACT
    assert float(one.outer_loss) == pytest.approx(float(other.outer_loss), rel=EXACT)
    assert (one.hvps, one.serial_depth) == (other.hvps, other.serial_depth)
