"""Small modules with data by number, for tests of meta-batches."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from estimators import (
    BilevelProblem,
    Estimator,
    MetaBatch,
    Params,
    module_problem,
    trainable,
)
from estimators.base.meta_batch import Batching
from estimators.base.module_loss import Batch, Criterion
from tests.support import modules
from tests.support.oracle import flatten, relative_error

BATCHINGS: tuple[Batching, ...] = get_args(Batching)
COUNT, STEPS = 3, 3
EXACT = 1e-10


@dataclass(frozen=True, eq=False)
class Net:
    """A module, its loss, and data by number."""

    module: nn.Module
    criterion: Criterion
    inputs: tuple[int, ...]
    classes: bool = False

    def batch(self, seed: int, points: int = 6) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(points, *self.inputs, generator=generator, dtype=torch.float64)
        if self.classes:
            return inputs, torch.randint(2, (points,), generator=generator)
        return inputs, torch.randn(points, 2, generator=generator, dtype=torch.float64)

    def problem(
        self,
        task: int,
        *,
        module: nn.Module | None = None,
        criterion: Criterion | None = None,
        support: Batch | None = None,
        query: Batch | None = None,
        step_size: float | Params = 0.1,
        steps: int = STEPS,
        momentum: float = 0.0,
    ) -> BilevelProblem:
        return module_problem(
            module or self.module,
            criterion or self.criterion,
            support or self.batch(2 * task),
            query or self.batch(2 * task + 1),
            step_size=step_size,
            steps=steps,
            momentum=momentum,
        )

    @property
    def params(self) -> Params:
        return trainable(self.module)


def mlp() -> Net:
    return Net(modules.mlp(), functional.mse_loss, (3,))


def conv_net() -> Net:
    return Net(modules.conv_net(), functional.cross_entropy, (1, 5, 5), classes=True)


NETS: dict[str, Callable[[], Net]] = {"mlp": mlp, "conv": conv_net}
every_net = pytest.mark.parametrize("net", [build() for build in NETS.values()], ids=list(NETS))
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


def grads(net: Net) -> dict[str, Tensor | None]:
    return {
        name: None if value.grad is None else value.grad.clone()
        for name, value in net.module.named_parameters()
    }
