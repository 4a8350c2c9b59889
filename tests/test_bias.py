"""Errors and angles against arithmetic on short vectors, and the split of a batch's error."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from estimators import Estimator, Params, create
from estimators.base.tree import norm, scaled
from harness.cell import Cell
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Diverged
from harness.matrix.problems import bilevel_problem
from harness.probes.bias import BatchError, bias, cosine_distance, error_bound, relative_error
from harness.probes.references import load_reference, save_reference
from harness.probes.target import Target

SINUSOID: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40"}
Vectors = NDArray[np.float64]  # [tasks, size]


def vectors(estimate: list[float], exact: list[float]) -> tuple[Params, Params]:
    """Spread both over two tensors, as parameters are."""

    def spread(values: list[float]) -> Params:
        tensor = torch.tensor(values, dtype=torch.float64)
        return {"a": tensor[:1].reshape(()), "b": tensor[1:].reshape(1, -1)}

    return spread(estimate), spread(exact)


def test_error_and_angle() -> None:
    for estimate, exact, error, distance in (
        ([3.0, 4.0, 0.0], [3.0, 4.0, 0.0], 0.0, 0.0),
        ([6.0, 8.0, 0.0], [3.0, 4.0, 0.0], 1.0, 0.0),
        ([-3.0, -4.0, 0.0], [3.0, 4.0, 0.0], 2.0, 2.0),
        ([-4.0, 3.0, 0.0], [3.0, 4.0, 0.0], math.sqrt(2), 1.0),
        ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], 1.0, 1 - math.sqrt(0.5)),
        ([0.0, 0.0, 0.0], [3.0, 4.0, 0.0], 1.0, 1.0),
        ([3.0, 4.0, 0.0], [0.0, 0.0, 0.0], math.inf, 1.0),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0, 0.0),
        ([3e-150, 4e-150, 1e-150], [3e-150, 4e-150, 0.0], 0.2, 1 - 5 / math.sqrt(26)),
        # 1 - cos is 5e-17 here: below the rounding of 1, and so lost if it were subtracted.
        ([1.0, 1e-8, 0.0], [1.0, 0.0, 0.0], 1e-8, 5e-17),
        ([1e9, 1e9 + 1, 0.0], [1e9, 1e9, 0.0], 1 / (math.sqrt(2) * 1e9), 0.125e-18),
    ):
        pair = vectors(estimate, exact)
        assert relative_error(*pair) == pytest.approx(error, rel=1e-6, abs=1e-300), estimate
        assert cosine_distance(*pair) == pytest.approx(distance, rel=1e-5, abs=1e-30), estimate


class Scaled(Estimator):
    """A deliberately wrong estimator: the exact meta-gradient, times a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def estimate(self, problem: Any, params: Params) -> Any:
        exact = create("maml").estimate(problem, params)
        object.__setattr__(exact, "gradient", scaled(self.factor, exact.gradient))
        return exact


@pytest.fixture
def reference(tmp_path: Path) -> tuple[Cell, Path]:
    cell = Cell.of(estimator="maml", depth=3, num_tasks=4, **SINUSOID)
    save_reference(cell.group, tmp_path / "exact.pt")
    return cell, tmp_path / "exact.pt"


def test_estimates_are_scored(reference: tuple[Cell, Path]) -> None:
    for factor, error, distance in ((1.0, 0, 0), (1.25, 0.25, 0), (-0.5, 1.5, 2), (0.0, 1, 1)):
        samples = bias(Target(*reference, Scaled(factor)))
        assert not samples.keys() & {"own_bias", "bound"}
        assert samples["bias"] == pytest.approx([error] * 4, abs=1e-12)
        assert samples["cosine_distance"] == pytest.approx([distance] * 4, abs=1e-12)
    for factor in (math.nan, math.inf):
        with pytest.raises(Diverged, match="task 0"):
            bias(Target(*reference, Scaled(factor)))
    # An objective that an estimator has for itself is scored beside.
    samples = bias(Target(*reference, create("imaml")))
    assert len(samples["own_bias"]) == len(samples["bias"]) == 4
    assert max(samples["own_bias"]) < min(samples["bias"])


def test_bound_and_curvature_are_scored_beside(reference: tuple[Cell, Path]) -> None:
    cell, path = reference
    known = load_reference(path, "cpu")
    fomaml = Cell.of(estimator="fomaml", depth=3, num_tasks=4, **SINUSOID)
    samples = bias(Target(fomaml, path))
    assert samples["curvature"] == known.curvature
    assert len(samples["bound"]) == 4
    for index, exact in enumerate(known.gradients):
        problem, params = bilevel_problem(fomaml, index, dtype=torch.float64, device="cpu")
        g = create("fomaml")(problem, params).gradient  # the outer gradient itself
        bound = error_bound(fomaml, create("fomaml"), known.curvature[index])
        assert bound is not None
        expected = bound * norm(g) / norm(exact)
        assert samples["bound"][index] == pytest.approx(expected, rel=1e-12)
        assert samples["bias"][index] < expected
    assert bias(Target(cell, path)).keys() == samples.keys() - {"bound"}


def batch_of(estimates: Vectors, exact: Vectors) -> Samples:
    batch = BatchError()
    for one, other in zip(estimates, exact, strict=True):
        batch.add(*vectors(one.tolist(), other.tolist()))
    return batch.samples()


def by_definition(estimates: Vectors, exact: Vectors) -> dict[str, float]:
    """The formulas of `BatchError` as printed, over all errors at once."""
    tasks, length = len(exact), np.linalg.norm(exact.mean(0))
    errors = estimates - exact
    squared = ((errors - errors.mean(0)) ** 2).sum() / (tasks - 1)
    systematic = max(0.0, (errors.mean(0) ** 2).sum() - squared / tasks)
    cosine = estimates.mean(0) @ exact.mean(0) / length / np.linalg.norm(estimates.mean(0))
    return {
        "batch_bias": float(np.linalg.norm(errors.mean(0)) / length),
        "batch_cosine_distance": float(1 - cosine),
        "systematic_bias": float(np.sqrt(systematic) / length),
        "error_spread": float(np.sqrt(squared) / length),
    }


def test_batch_error_is_as_defined() -> None:
    for tasks, shift in product((2, 3, 8), (0.0, 0.5, 30.0)):
        rng = np.random.default_rng(tasks)
        exact = rng.standard_normal((tasks, 6)) + 1
        estimates = exact + shift + rng.standard_normal((tasks, 6))
        expected = by_definition(estimates, exact)
        samples = batch_of(estimates, exact)
        values = {name: value for name, (value,) in samples.items()}
        assert values == pytest.approx(expected, rel=1e-9), (tasks, shift)
        if expected["systematic_bias"]:
            parts = expected["systematic_bias"] ** 2 + expected["error_spread"] ** 2 / tasks
            assert values["batch_bias"] ** 2 == pytest.approx(parts), (tasks, shift)
        else:
            assert values["systematic_bias"] == 0
        assert {value for (value,) in batch_of(exact, exact).values()} == {0}


def test_systematic_bias_has_a_floor() -> None:
    # Errors that cancel: all spread, and nothing systematic.
    exact = np.ones((2, 4))
    samples = batch_of(exact + np.array([[1.0], [-1.0]]), exact)
    assert samples["batch_bias"] == samples["systematic_bias"] == [0]
    assert samples["error_spread"][0] == pytest.approx(math.sqrt(8) / 2)


def test_one_task_has_no_spread() -> None:
    samples = batch_of(np.array([[3.0, 4.0, 1.0]]), np.array([[3.0, 4.0, 0.0]]))
    assert list(samples) == ["batch_bias", "batch_cosine_distance"]
    assert samples["batch_bias"] == pytest.approx([0.2])


def test_errors_that_are_nearly_the_same_do_not_cancel() -> None:
    exact = np.ones((4, 3))
    apart = np.array([[1.0], [-1.0], [1.0], [-1.0]]) * 1e-7
    samples = batch_of(exact + 1000 + apart, exact)
    spread = math.sqrt(4 * 3 * 1e-14 / 3) / math.sqrt(3)
    assert samples["error_spread"] == pytest.approx([spread], rel=1e-4)
    assert samples["systematic_bias"] == pytest.approx([1000])


def test_systematic_part_is_unbiased() -> None:
    """Its square has the mean ||E e||^2 over draws of tasks; that of the batch bias has not."""
    rng = np.random.default_rng(0)
    draws, tasks, true = 1500, 4, np.array([0.5, 0.3, 0.0, -0.2])
    scale = np.array([0.2, 0.3, 0.1, 0.2])  # small enough for the floor hardly to be met
    exact = np.zeros((tasks, 4))
    exact[:, 0] = 1.0
    plain, systematic, spread = [], [], []
    for _ in range(draws):
        samples = batch_of(exact + true + scale * rng.standard_normal((tasks, 4)), exact)
        plain.append(samples["batch_bias"][0] ** 2)
        systematic.append(samples["systematic_bias"][0] ** 2)
        spread.append(samples["error_spread"][0] ** 2)
    square, variance = float(true @ true), float(scale @ scale)
    error = 4 * float(np.std(systematic)) / math.sqrt(draws)
    assert error < 0.5 * variance / tasks
    assert np.mean(systematic) == pytest.approx(square, abs=error)
    assert np.mean(plain) == pytest.approx(square + variance / tasks, abs=error)
    assert np.mean(plain) > square + 1.5 * error
    assert np.mean(spread) == pytest.approx(variance, rel=0.05)
