"""The fit of the calibrated estimator's weights against dense linear algebra."""

import warnings
from functools import cache
from statistics import median

import pytest
import torch

from estimators import BilevelProblem, create
from estimators.hvp import count_hvps
from harness.conformance.cases import case
from tests.support.cases import EXACT, every_case
from tests.support.oracle import flatten, relative_error
from tests.support.probes import (
    THETA,
    WELL_POSED,
    Dense,
    calibrated,
    errors_of_all,
    fitted,
    least_squares,
    problem,
    root_mean_square,
    total_error,
)


def problems(count: int, alpha: float, steps: int) -> list[BilevelProblem]:
    return [problem(seed, alpha, steps) for seed in range(count)]


@cache
def dense(seed: int, alpha: float, steps: int, order: int) -> Dense:
    return Dense(problem(seed, alpha, steps), THETA, order)


@every_case
def test_before_calibration_it_is_binom(name: str) -> None:
    found = case(name)
    for steps in range(6):
        for order in range(steps + 1):
            problem, estimator = found.problem(steps), calibrated(order)
            with count_hvps() as counter:
                result = estimator(problem, found.params)
            binom = create("binom", order=order)(problem, found.params)
            assert estimator.calibration is None
            assert relative_error(result.gradient, flatten(binom.gradient)) < EXACT, (steps, order)
            assert torch.equal(result.outer_loss, binom.outer_loss)
            assert torch.equal(flatten(result.adapted), flatten(binom.adapted))
            assert result.hvps == counter.products
            assert result.serial_depth == order


def test_fit_is_the_least_squares_solution_and_its_error_leaves_each_probe_out() -> None:
    for alpha, steps, order in WELL_POSED:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            calibration = fitted(order, problems(6, alpha, steps), THETA)
        tasks = [dense(seed, alpha, steps, order) for seed in range(6)]
        assert calibration.fell_back is None
        expected = least_squares(tasks).tolist()
        assert calibration.coefficients == pytest.approx(expected, rel=1e-5), (alpha, steps, order)
        errors = [
            task.error(least_squares([other for other in tasks if other is not task]))
            for task in tasks
        ]
        assert calibration.error == pytest.approx(root_mean_square(errors), rel=1e-3)
        assert calibration.error > total_error(tasks, calibration.coefficients)


def test_a_single_probe_is_fitted_to_itself() -> None:
    task, calibration = dense(0, 0.5, 4, 2), fitted(2, problems(1, 0.5, 4), THETA)
    assert calibration.coefficients == pytest.approx(least_squares([task]).tolist(), rel=1e-6)
    expected = total_error([task], calibration.coefficients)
    assert calibration.error == pytest.approx(expected, rel=1e-6)


def test_estimate_has_the_fitted_weights() -> None:
    estimator, task = calibrated(3), dense(20, 0.5, 5, 3)
    estimator.calibrate(problems(4, 0.5, 5), THETA)
    assert estimator.calibration is not None
    weights = torch.tensor(estimator.calibration.coefficients, dtype=torch.float64)
    result = estimator(problem(20, 0.5, 5), THETA)
    assert relative_error(result.gradient, task.g + task.levels @ weights) < EXACT


def test_probes_may_differ_in_depth_and_step_size() -> None:
    kinds = [(0, 0.3, 3), (1, 0.6, 5), (2, 0.9, 4), (3, 0.5, 2)]
    calibration = fitted(2, [problem(*kind) for kind in kinds], THETA)
    expected = least_squares([dense(*kind, 2) for kind in kinds])
    assert calibration.coefficients == pytest.approx(expected.tolist(), rel=1e-6)


def test_each_task_counts_alike_whatever_the_size_of_its_gradient() -> None:
    first, *others = problems(5, 0.5, 4)
    large = BilevelProblem(first.inner_loss, lambda params: 1e6 * first.outer_loss(params), 0.5, 4)
    one, other = (fitted(2, [probe, *others], THETA) for probe in (first, large))
    assert one.fell_back is other.fell_back is None
    assert one.coefficients == pytest.approx(other.coefficients, rel=1e-9)


def test_fit_in_single_precision_is_near_that_in_double_precision() -> None:
    single, double = (
        fitted(2, [found.problem(4)], found.params)
        for found in (case("mlp", torch.float32), case("mlp"))
    )
    assert single.coefficients == pytest.approx(double.coefficients, rel=0.01)


def test_calibration_takes_the_products_of_an_estimate_and_the_exact_ones() -> None:
    with count_hvps() as counter:
        fitted(2, problems(3, 0.5, 5), THETA)
    assert counter.products == 3 * (2 * (5 - 2) + 3 + 5)


@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_error_is_never_above_those_of_binom_and_fomaml() -> None:
    for alpha in (1e-200, 1e-20, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 1.0, 5.0, 50.0):
        for steps, order in ((3, 1), (4, 2), (5, 4)):
            calibration = fitted(order, problems(4, alpha, steps), THETA)
            tasks = [dense(seed, alpha, steps, order) for seed in range(4)]
            own, rivals = errors_of_all(tasks, calibration.coefficients)
            assert own <= rivals * (1 + 1e-6) + 1e-9, (alpha, steps, order)
            assert own <= calibration.error * (1 + 1e-6) + 1e-9, (alpha, steps, order)
            assert calibration.error <= rivals * (1 + 1e-6) + 1e-6, (alpha, steps, order)


@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_small_errors_are_told_apart() -> None:
    for alpha, steps, order in ((1e-4, 5, 4), (1e-3, 5, 4), (1e-3, 5, 5), (1.0, 5, 5)):
        calibration = fitted(order, problems(6, alpha, steps), THETA)
        tasks = [dense(seed, alpha, steps, order) for seed in range(6)]
        own, rivals = errors_of_all(tasks, calibration.coefficients)
        assert own <= 2 * rivals + 1e-15, (alpha, steps, order)
        assert calibration.error < 1e-12, (alpha, steps, order)


def test_it_holds_where_binom_explodes() -> None:
    calibration = fitted(4, problems(6, 1.0, 5), THETA)
    tasks = [dense(seed, 1.0, 5, 4) for seed in range(6)]
    own, rivals = errors_of_all(tasks, calibration.coefficients)
    assert rivals > 5
    assert own < 0.2 * rivals


def test_it_is_better_on_tasks_that_it_was_not_fitted_to() -> None:
    estimator = calibrated(2)
    estimator.calibrate(problems(8, 0.5, 4), THETA)
    errors = [
        median(
            relative_error(one(problem(seed, 0.5, 4), THETA).gradient, dense(seed, 0.5, 4, 2).exact)
            for seed in range(100, 110)
        )
        for one in (estimator, create("binom(order=2)"), create("fomaml"))
    ]
    assert errors[0] < 0.8 * min(errors[1:])
