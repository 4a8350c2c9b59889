"""The conformance suite's small bilevel problems, each with its dense reference."""

from functools import cache

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, MetaGradient, Params, create
from harness.conformance.cases import SYNTHETIC, Case, Source, case
from tests.support.oracle import Loss, Oracle, relative_error

NAMES = list(SYNTHETIC)
CURVED = [name for name in NAMES if case(name).curved]
EXACT = 1e-10

every_case = pytest.mark.parametrize("name", NAMES)
every_curved_case = pytest.mark.parametrize("name", CURVED)


def kinked(dtype: torch.dtype, seed: int) -> Case:
    """Regression by a ReLU network: curvature and kinks; none of `NAMES`, which are smooth."""
    source = Source(100 + seed, dtype, draw=0)

    def regression() -> Loss:
        inputs, targets = source.normal(1, 10), source.normal(1, 10)

        def loss(params: Params) -> Tensor:
            hidden = torch.relu(params["first"] @ inputs + params["bias"])
            hidden = torch.relu(params["middle"] @ hidden)
            return (params["last"] @ hidden - targets).square().mean()

        return loss

    params = {
        "first": source.normal(40, 1),
        "bias": source.normal(40, 1),
        "middle": source.normal(40, 40) / 40**0.5,
        "last": source.normal(1, 40) / 40**0.5,
    }
    return Case("kinked", regression(), regression(), 0.02, params)


def estimate(spec: str, name: str, steps: int) -> MetaGradient:
    """Return an estimator's result on a case at a depth."""
    example = case(name)
    return create(spec)(example.problem(steps), example.params)


def assert_estimate(
    spec: str, name: str, steps: int, expected: Tensor, tolerance: float = EXACT
) -> MetaGradient:
    """Check an estimate on a case at a depth, and return the result."""
    result = estimate(spec, name, steps)
    assert relative_error(result.gradient, expected) < tolerance, (spec, name, steps)
    return result


@cache
def oracle(name: str, steps: int) -> Oracle:
    """Return the reference for a case at a depth."""
    example = case(name)
    return Oracle(example.inner_loss, example.outer_loss, example.step_size, steps, example.params)


def elementwise(dtype: torch.dtype, scale: float = 1.0) -> tuple[BilevelProblem, Params]:
    """Return a problem without matrix products, which autocast leaves as it is."""
    curvature = torch.linspace(0, 9, 30, dtype=dtype)

    def inner(params: Params) -> Tensor:
        return (curvature * (params["w"] + 0.3).cos()).sum()

    def outer(params: Params) -> Tensor:
        return scale * (params["w"] - 1).square().sum()

    theta = {"w": torch.linspace(3, 4, 30, dtype=dtype)}
    return BilevelProblem(inner, outer, step_size=0.05, steps=12), theta
