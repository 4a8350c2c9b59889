"""Times of the hot kernels, for comparing two states of the code by hand.

Each body runs once in `make test`, untimed. To time them, and to compare with an earlier time:

    pytest tests/perf --benchmark-enable --benchmark-autosave
    pytest tests/perf --benchmark-enable --benchmark-compare
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from estimators import create
from estimators.hvp import hvp
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem

SETTINGS = [("sinusoid", "mlp-40-40"), ("glyphs:5way-1shot", "conv4-32")]

every_setting = pytest.mark.parametrize(("task", "model"), SETTINGS)


@every_setting
@pytest.mark.parametrize(
    "estimator", ["maml", "adjoint", "fomaml", "truncated(order=2)", "binom(order=2)", "imaml"]
)
def test_estimate(benchmark: BenchmarkFixture, task: str, model: str, estimator: str) -> None:
    cell = Cell.of(estimator=estimator, task=task, model=model, depth=5)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    result = benchmark(create(estimator), problem, params)
    benchmark.extra_info["hvps"] = result.hvps
    assert all(torch.isfinite(value).all() for value in result.gradient.values())


@every_setting
def test_one_hvp(benchmark: BenchmarkFixture, task: str, model: str) -> None:
    cell = Cell.of(estimator="maml", task=task, model=model, depth=1)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    product = benchmark(hvp, problem.inner_loss, params, params, engine="reverse")
    assert product.keys() == params.keys()
