"""Modules, data by number, and their problems: of a module, of a task, and written by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from estimators import BilevelProblem, Estimator, MetaBatch, Params, module_problem, trainable
from estimators.base.meta_batch import Batching
from estimators.base.module_loss import Batch, Criterion
from harness.conformance.cases import Source
from tests.support.oracle import Loss, flatten, relative_error

SPECS = [
    "maml",
    "adjoint",
    "adjoint(engine='func')",
    "fomaml",
    "truncated(order=2)",
    "binom(order=2)",
    "binom(order=2, batching='vmap')",
    "binom-chebyshev(order=2)",
    "anil",
    "imaml(lam=2.0)",
    "reptile",
]
BATCHINGS: tuple[Batching, ...] = get_args(Batching)
COUNT, STEPS, STEP_SIZE = 3, 3, 0.1
EXACT = 1e-10


def draws(seed: int) -> Source:
    """Return repeatable normal draws in float64."""
    return Source(seed, torch.float64, draw=0)


def seeded(module: nn.Module) -> nn.Module:
    """Return the module in float64, its parameters drawn anew."""
    source = draws(0)
    module = module.double()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.5 * source.normal(*value.shape))
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


def regression(seed: int, points: int = 6) -> Batch:
    source = draws(seed)
    return source.normal(points, 3), source.normal(points, 2)


def images(seed: int, points: int = 6) -> Batch:
    return draws(seed).normal(points, 1, 5, 5), torch.arange(points) % 2


def problem_of(
    module: nn.Module,
    criterion: Criterion = functional.mse_loss,
    support: Batch | None = None,
    query: Batch | None = None,
    *,
    step_size: float | Params = STEP_SIZE,
    steps: int = STEPS,
    momentum: float = 0.0,
) -> BilevelProblem:
    support, query = support or regression(1), query or regression(2)
    return module_problem(
        module, criterion, support, query, step_size=step_size, steps=steps, momentum=momentum
    )


def image_problem(module: nn.Module) -> BilevelProblem:
    return problem_of(module, functional.cross_entropy, images(1), images(2))


def by_hand(loss: Callable[[Batch], Loss], batch: Callable[[int], Batch]) -> BilevelProblem:
    """Return the problem that `problem_of` is to give, of losses that are written by hand."""
    return BilevelProblem(loss(batch(1)), loss(batch(2)), STEP_SIZE, STEPS)


@dataclass(frozen=True, eq=False)
class Net:
    """A module, its loss and its data, for problems by the number of a task."""

    module: nn.Module
    criterion: Criterion
    batch: Callable[..., Batch]

    def problem(
        self,
        task: int,
        *,
        module: nn.Module | None = None,
        criterion: Criterion | None = None,
        support: Batch | None = None,
        query: Batch | None = None,
        **options: Any,
    ) -> BilevelProblem:
        return problem_of(
            module or self.module,
            criterion or self.criterion,
            support or self.batch(2 * task),
            query or self.batch(2 * task + 1),
            **options,
        )

    def problems(self, **options: Any) -> list[BilevelProblem]:
        return [self.problem(task, **options) for task in range(COUNT)]

    @property
    def params(self) -> Params:
        return trainable(self.module)

    @property
    def grads(self) -> dict[str, Tensor | None]:
        return {
            name: None if value.grad is None else value.grad.clone()
            for name, value in self.module.named_parameters()
        }


def mlp_net() -> Net:
    return Net(mlp(), functional.mse_loss, regression)


def conv_net_of_images() -> Net:
    return Net(conv_net(), functional.cross_entropy, images)


NETS = {"mlp": mlp_net, "conv": conv_net_of_images}
every_batching = pytest.mark.parametrize("batching", BATCHINGS)


def assert_close(one: Params, other: Params, tolerance: float = EXACT) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.shape == other[name].shape
    assert relative_error(one, flatten(other)) < tolerance


def assert_mean(result: MetaBatch, estimator: Estimator, problems: list[BilevelProblem]) -> None:
    """Check a result against the mean that is taken here."""
    params = trainable(problems[0].inner_loss.module)  # type: ignore[attr-defined]
    singles = [estimator(problem, params) for problem in problems]
    for name, value in result.gradient.items():
        mean = torch.stack([single.gradient[name] for single in singles]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=1e-12)
        assert not value.requires_grad
    outer_loss = fmean(float(single.outer_loss) for single in singles)
    assert float(result.outer_loss) == pytest.approx(outer_loss, rel=EXACT)
    assert result.outer_loss.shape == ()
