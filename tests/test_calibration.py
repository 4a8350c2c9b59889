"""The weighted cascade, and the fit of its weights, against dense linear algebra."""

import warnings
from functools import cache
from statistics import median

import pytest
import torch

from estimators import BilevelProblem, create
from estimators.hvp import count_hvps
from estimators.methods.cascade import elementary_sums
from harness.conformance.cases import case
from tests.support.cases import NAMES, oracle
from tests.support.oracle import flatten, relative_error, unflatten
from tests.support.probes import (
    THETA,
    WELL_POSED,
    Dense,
    calibrated,
    errors_of_all,
    least_squares,
    problem,
    root_mean_square,
    subset_sums,
    total_error,
)

DEEPEST = 5
DEPTHS = range(DEEPEST + 1)
ORDERS = [(steps, order) for steps in DEPTHS for order in range(steps + 1)]
EXACT = 1e-10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS)
def test_elementary_sums_are_sums_over_subsets(name: str, steps: int) -> None:
    found, reference = case(name), oracle(name, steps)
    points = [unflatten(phi, found.params) for phi in reference.iterates[:-1]]
    g = unflatten(reference.outer_gradient, found.params)
    for order in range(steps + 1):
        for engine in ("reverse", "func") if order == 2 else ("reverse",):
            sums = elementary_sums(
                found.inner_loss, points, g, order, scale=found.step_size, engine=engine
            )
            assert len(sums) == order
            for found_sum, expected in zip(sums, subset_sums(reference, order), strict=True):
                assert (flatten(found_sum) - expected).norm() <= EXACT * expected.norm()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_before_calibration_it_is_binom(name: str, steps: int, order: int) -> None:
    found = case(name)
    problem, estimator = found.problem(steps), calibrated(order)
    with count_hvps() as counter:
        result = estimator(problem, found.params)
    binom = create("binom", order=order)(problem, found.params)
    assert estimator.calibration is None
    assert relative_error(result.gradient, flatten(binom.gradient)) < EXACT
    assert torch.equal(result.outer_loss, binom.outer_loss)
    assert torch.equal(flatten(result.adapted), flatten(binom.adapted))
    expected = order * (steps - order) + order * (order + 1) // 2
    assert result.hvps == counter.products == expected
    assert result.serial_depth == order


@cache
def dense(seed: int, alpha: float, steps: int, order: int) -> Dense:
    return Dense(problem(seed, alpha, steps), THETA, order)


@pytest.mark.parametrize(("alpha", "steps", "order"), WELL_POSED)
def test_fit_is_the_least_squares_solution(alpha: float, steps: int, order: int) -> None:
    seeds, estimator = range(6), calibrated(order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.calibrate([problem(seed, alpha, steps) for seed in seeds], THETA)
    tasks = [dense(seed, alpha, steps, order) for seed in seeds]
    found = estimator.calibration
    assert found is not None
    assert found.fell_back is None
    assert found.coefficients == pytest.approx(least_squares(tasks).tolist(), rel=1e-5)


@pytest.mark.parametrize(("alpha", "steps", "order"), WELL_POSED)
def test_error_leaves_each_probe_out_in_turn(alpha: float, steps: int, order: int) -> None:
    seeds, estimator = range(6), calibrated(order)
    estimator.calibrate([problem(seed, alpha, steps) for seed in seeds], THETA)
    tasks = [dense(seed, alpha, steps, order) for seed in seeds]
    errors = [
        task.error(least_squares([other for other in tasks if other is not task])) for task in tasks
    ]
    assert estimator.calibration is not None
    assert estimator.calibration.error == pytest.approx(root_mean_square(errors), rel=1e-3)
    assert estimator.calibration.error > total_error(tasks, estimator.calibration.coefficients)


def test_a_single_probe_is_fitted_to_itself() -> None:
    estimator, task = calibrated(2), dense(0, 0.5, 4, 2)
    estimator.calibrate([problem(0, 0.5, 4)], THETA)
    found = estimator.calibration
    assert found is not None
    assert found.coefficients == pytest.approx(least_squares([task]).tolist(), rel=1e-6)
    assert found.error == pytest.approx(total_error([task], found.coefficients), rel=1e-6)


def test_estimate_has_the_fitted_weights() -> None:
    estimator = calibrated(3)
    estimator.calibrate([problem(seed, 0.5, 5) for seed in range(4)], THETA)
    assert estimator.calibration is not None
    weights = torch.tensor(estimator.calibration.coefficients, dtype=torch.float64)
    task = dense(20, 0.5, 5, 3)
    result = estimator(problem(20, 0.5, 5), THETA)
    assert relative_error(result.gradient, task.g + task.levels @ weights) < EXACT


def test_probes_may_differ_in_depth_and_step_size() -> None:
    kinds = [(0, 0.3, 3), (1, 0.6, 5), (2, 0.9, 4), (3, 0.5, 2)]
    estimator = calibrated(2)
    estimator.calibrate([problem(*kind) for kind in kinds], THETA)
    assert estimator.calibration is not None
    expected = least_squares([dense(*kind, 2) for kind in kinds])
    assert estimator.calibration.coefficients == pytest.approx(expected.tolist(), rel=1e-6)


def test_each_task_counts_alike_whatever_the_size_of_its_gradient() -> None:
    first, *others = (problem(seed, 0.5, 4) for seed in range(5))
    large = BilevelProblem(first.inner_loss, lambda params: 1e6 * first.outer_loss(params), 0.5, 4)
    found = []
    for probes in ([first, *others], [large, *others]):
        estimator = calibrated(2)
        estimator.calibrate(probes, THETA)
        assert estimator.calibration is not None
        assert estimator.calibration.fell_back is None
        found.append(estimator.calibration.coefficients)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_fit_in_single_precision_is_near_that_in_double_precision() -> None:
    theta = {name: value.float() for name, value in case("mlp").params.items()}
    single, double = calibrated(2), calibrated(2)
    single.calibrate([case("mlp", torch.float32).problem(4)], theta)
    double.calibrate([case("mlp").problem(4)], case("mlp").params)
    assert single.calibration is not None
    assert double.calibration is not None
    assert single.calibration.coefficients == pytest.approx(
        double.calibration.coefficients, rel=0.01
    )


def test_calibration_takes_the_products_of_an_estimate_and_the_exact_ones() -> None:
    with count_hvps() as counter:
        calibrated(2).calibrate([problem(seed, 0.5, 5) for seed in range(3)], THETA)
    assert counter.products == 3 * (2 * (5 - 2) + 3 + 5)


# Never worse than what it replaces

STEP_SIZES = [1e-200, 1e-20, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 1.0, 5.0, 50.0]


@pytest.mark.parametrize("alpha", STEP_SIZES)
@pytest.mark.parametrize(("steps", "order"), [(3, 1), (4, 2), (5, 4)])
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_error_is_never_above_those_of_binom_and_fomaml(
    alpha: float, steps: int, order: int
) -> None:
    seeds, estimator = range(4), calibrated(order)
    estimator.calibrate([problem(seed, alpha, steps) for seed in seeds], THETA)
    tasks = [dense(seed, alpha, steps, order) for seed in seeds]
    assert estimator.calibration is not None
    own, rivals = errors_of_all(tasks, estimator.calibration.coefficients)
    assert own <= rivals * (1 + 1e-6) + 1e-9
    assert own <= estimator.calibration.error * (1 + 1e-6) + 1e-9
    assert estimator.calibration.error <= rivals * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize(
    ("alpha", "steps", "order"), [(1e-4, 5, 4), (1e-3, 5, 4), (1e-3, 5, 5), (1.0, 5, 5)]
)
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_small_errors_are_told_apart(alpha: float, steps: int, order: int) -> None:
    seeds, estimator = range(6), calibrated(order)
    estimator.calibrate([problem(seed, alpha, steps) for seed in seeds], THETA)
    tasks = [dense(seed, alpha, steps, order) for seed in seeds]
    assert estimator.calibration is not None
    own, rivals = errors_of_all(tasks, estimator.calibration.coefficients)
    assert own <= 2 * rivals + 1e-15
    assert estimator.calibration.error < 1e-12


def test_it_holds_where_binom_explodes() -> None:
    seeds, estimator = range(6), calibrated(4)
    estimator.calibrate([problem(seed, 1.0, 5) for seed in seeds], THETA)
    tasks = [dense(seed, 1.0, 5, 4) for seed in seeds]
    assert estimator.calibration is not None
    own, rivals = errors_of_all(tasks, estimator.calibration.coefficients)
    assert rivals > 5
    assert own < 0.2 * rivals


def test_it_is_better_on_tasks_that_it_has_not_seen() -> None:
    estimator = calibrated(2)
    estimator.calibrate([problem(seed, 0.5, 4) for seed in range(8)], THETA)

    def error(spec: str | None) -> float:
        one = create(spec) if spec else estimator
        return median(
            relative_error(one(problem(seed, 0.5, 4), THETA).gradient, dense(seed, 0.5, 4, 2).exact)
            for seed in range(100, 110)
        )

    assert error(None) < 0.8 * min(error("binom(order=2)"), error("fomaml"))
