"""The weighted cascade, and the fit of its weights, against dense linear algebra."""

import json
import math
import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, OptionError, Params, create
from estimators.binom_calibrated import BinomCalibrated
from estimators.cascade import elementary_sums
from estimators.hvp import count_hvps
from harness.conformance.cases import case
from tests.cases import NAMES, oracle
from tests.oracle import Oracle, flatten, relative_error, unflatten

DEEPEST = 5
DEPTHS = range(DEEPEST + 1)
ORDERS = [(steps, order) for steps in DEPTHS for order in range(steps + 1)]
EXACT = 1e-10


def calibrated(order: int, **options: Any) -> BinomCalibrated:
    estimator = create("binom-calibrated", order=order, **options)
    assert isinstance(estimator, BinomCalibrated)
    return estimator


# The cascade


def subset_sums(reference: Oracle, order: int) -> list[Tensor]:
    """Returns e_1, ..., e_L, one subset k_1 < ... < k_l of the steps at a time."""
    sums = []
    for size in range(1, order + 1):
        total = torch.zeros_like(reference.outer_gradient)
        for subset in combinations(range(reference.steps), size):
            term = reference.outer_gradient
            for k in reversed(subset):
                term = -reference.step_size * reference.hessians[k] @ term
            total = total + term
        sums.append(total)
    return sums


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


# Problems at random

SIZE = 6
THETA = {"w": torch.randn(SIZE, generator=torch.Generator().manual_seed(9)).double()}


def problem(seed: int, alpha: float, steps: int) -> BilevelProblem:
    """Returns a problem whose inner Hessians vary, with eigenvalues up to about 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    basis: Tensor = torch.linalg.qr(normal(SIZE, SIZE)).Q
    curvature = torch.rand(SIZE, generator=generator).double()
    slope, waves, goal = normal(SIZE), normal(SIZE, SIZE), normal(SIZE)

    def inner_loss(params: Params) -> Tensor:
        w = params["w"]
        bowl = 0.5 * (curvature * (basis.T @ w).square()).sum() - slope @ w
        return bowl + 0.1 * (waves @ w).cos().sum()

    def outer_loss(params: Params) -> Tensor:
        return 0.5 * (params["w"] - goal).square().sum() + params["w"].cos().sum()

    return BilevelProblem(inner_loss, outer_loss, alpha, steps)


def bowl(curvature: float, alpha: float, steps: int, size: int = SIZE) -> BilevelProblem:
    """Returns a problem whose inner Hessian is a multiple of the identity."""

    def inner_loss(params: Params) -> Tensor:
        return 0.5 * curvature * (params["w"] - 1).square().sum()

    def outer_loss(params: Params) -> Tensor:
        return 0.5 * (params["w"] - torch.arange(2.0, 2.0 + size).double()).square().sum()

    return BilevelProblem(inner_loss, outer_loss, alpha, steps)


def slide(steps: int) -> BilevelProblem:
    """Returns a problem whose inner loss has no curvature."""
    return BilevelProblem(
        lambda params: params["w"].sum(), lambda params: params["w"].cos().sum(), 0.1, steps
    )


def point(size: int) -> Params:
    return {"w": torch.linspace(-1, 2, size).double()}


class Dense:
    """What a fit is about, in dense vectors: g, e_1, ..., e_L and the exact meta-gradient."""

    def __init__(self, which: BilevelProblem, theta: Params, order: int) -> None:
        assert isinstance(which.step_size, float)
        reference = Oracle(which.inner_loss, which.outer_loss, which.step_size, which.steps, theta)
        self.g, self.exact = reference.outer_gradient, reference.exact()
        self.levels = torch.stack([*subset_sums(reference, order)], dim=1)

    @property
    def equations(self) -> tuple[Tensor, Tensor]:
        """Matrix and right side, in units of the exact meta-gradient."""
        return self.levels / self.exact.norm(), (self.exact - self.g) / self.exact.norm()

    def error(self, coefficients: Tensor) -> float:
        estimate = self.g + self.levels @ coefficients
        return float((estimate - self.exact).norm() / self.exact.norm())


@cache
def dense(seed: int, alpha: float, steps: int, order: int) -> Dense:
    return Dense(problem(seed, alpha, steps), THETA, order)


def least_squares(tasks: Sequence[Dense]) -> Tensor:
    """Returns the coefficients that numpy finds for all equations below each other."""
    pairs = [task.equations for task in tasks]
    matrix, right = (torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
    return torch.tensor(np.linalg.lstsq(matrix, right)[0])


def root_mean_square(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def total_error(tasks: Sequence[Dense], coefficients: Sequence[float]) -> float:
    found = torch.tensor(list(coefficients), dtype=torch.float64)
    return root_mean_square([task.error(found) for task in tasks])


def errors_of_all(tasks: Sequence[Dense], coefficients: Sequence[float]) -> tuple[float, float]:
    """Returns the error with some coefficients, and the lower of those of Eq. 8 and fomaml."""
    order = len(coefficients)
    rivals = min(total_error(tasks, [value] * order) for value in (0.0, 1.0))
    return total_error(tasks, coefficients), rivals


# The fit

WELL_POSED = [
    (alpha, steps, order)
    for alpha in (0.1, 0.3, 0.6)
    for steps, order in ((3, 1), (4, 2), (5, 3), (5, 4))
]


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


# Where no fit can be had


def check_fallback(
    estimator: BinomCalibrated, probes: list[BilevelProblem], theta: Params, words: str
) -> tuple[float, ...]:
    """Checks that a fit fell back, said so, and did no harm; returns its coefficients."""
    with pytest.warns(UserWarning, match="binom-calibrated: ") as caught:
        estimator.calibrate(probes, theta)
    found = estimator.calibration
    assert found is not None
    assert found.fell_back is not None
    assert words in found.fell_back
    assert [str(each.message) for each in caught] == [
        f"binom-calibrated: {found.fell_back}; these are used"
    ]
    assert len(found.coefficients) == estimator.order
    assert all(math.isfinite(value) for value in (*found.coefficients, found.error))
    own, rivals = errors_of_all(
        [Dense(each, theta, estimator.order) for each in probes], found.coefficients
    )
    assert own <= rivals + 1e-9
    assert not estimator.due
    return found.coefficients


def test_collinear_levels_are_fitted_by_the_first() -> None:
    probes = [bowl(2.0, alpha=0.3, steps=4) for _ in range(3)]
    estimator = calibrated(3)
    coefficients = check_fallback(estimator, probes, point(SIZE), "the first 1 of 3 levels")
    assert coefficients[0] == pytest.approx((1 - (1 - 0.6) ** 4) / (4 * 0.6), rel=1e-6)
    assert coefficients[1:] == (0.0, 0.0)
    assert estimator.calibration is not None
    assert estimator.calibration.error < 1e-6


def test_levels_of_other_curvatures_are_collinear_within_each_task_alone() -> None:
    curvatures = (0.5, 1.0, 1.5, 2.0)
    estimator, theta = calibrated(3), point(SIZE)
    probes = [bowl(curvature, alpha=0.3, steps=4) for curvature in curvatures]
    estimator.calibrate(probes, theta)
    found = estimator.calibration
    assert found is not None
    assert found.fell_back is None
    expected = least_squares([Dense(each, theta, 3) for each in probes])
    assert found.coefficients == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_levels_that_are_zero_are_not_fitted(count: int) -> None:
    estimator = calibrated(2)
    coefficients = check_fallback(estimator, [slide(3)] * count, THETA, "Eq. 8")
    assert coefficients == (1.0, 1.0)
    assert estimator.calibration is not None
    assert estimator.calibration.error == 0
    fomaml = create("fomaml")(slide(3), THETA)
    assert torch.equal(flatten(estimator(slide(3), THETA).gradient), flatten(fomaml.gradient))


def test_tasks_without_curvature_do_not_disturb_the_others() -> None:
    curved = [problem(seed, 0.5, 4) for seed in range(4)]
    both, alone = calibrated(2), calibrated(2)
    both.calibrate([slide(4), *curved, slide(4)], THETA)
    alone.calibrate(curved, THETA)
    assert both.calibration is not None
    assert alone.calibration is not None
    assert both.calibration.coefficients == pytest.approx(alone.calibration.coefficients, rel=1e-9)


def test_one_parameter_has_room_for_one_coefficient() -> None:
    probes = [bowl(2.0, alpha=0.3, steps=3, size=1)]
    check_fallback(calibrated(2), probes, point(1), "the first 1 of 2 levels")


def test_tasks_of_one_parameter_have_room_for_as_many_coefficients_as_there_are_tasks() -> None:
    estimator, theta = calibrated(2), point(1)
    probes = [bowl(curvature, alpha=0.3, steps=3, size=1) for curvature in (0.5, 1.0, 2.0, 3.0)]
    estimator.calibrate(probes, theta)
    assert estimator.calibration is not None
    expected = least_squares([Dense(each, theta, 2) for each in probes])
    assert estimator.calibration.coefficients == pytest.approx(expected.tolist(), rel=1e-6)


def test_more_levels_than_a_task_has_entries() -> None:
    def inner_loss(params: Params) -> Tensor:
        return 0.5 * (torch.tensor([1.0, 2.0]).double() * params["w"].square()).sum()

    probe = BilevelProblem(inner_loss, bowl(1.0, 0.3, 5, size=2).outer_loss, 0.3, 5)
    check_fallback(calibrated(4), [probe], point(2), "the first 2 of 4 levels")


def test_levels_that_vanish_in_single_precision_are_not_fitted() -> None:
    theta = {"w": torch.linspace(-1, 2, SIZE)}

    def inner_loss(params: Params) -> Tensor:
        return (torch.arange(1.0, SIZE + 1) * params["w"].square()).sum()

    probe = BilevelProblem(inner_loss, lambda params: params["w"].cos().sum(), 1e-30, 4)
    estimator = calibrated(3)
    with pytest.warns(UserWarning, match="the first 1 of 3 levels"):
        estimator.calibrate([probe, probe], theta)
    fomaml = create("fomaml")(probe, theta)
    result = estimator(probe, theta)
    assert torch.equal(flatten(result.gradient), flatten(fomaml.gradient))


def test_tasks_that_contradict_each_other_end_in_fomaml() -> None:
    # One coefficient: alpha H of .1 asks for .95, and alpha H of 4 for -1.
    probes = [bowl(curvature, alpha=1.0, steps=2, size=1) for curvature in (0.1, 4.0)]
    assert check_fallback(calibrated(1), probes, point(1), "fomaml") == (0.0,)


def test_tasks_that_contradict_each_other_end_in_binom() -> None:
    # Alpha H of .2 asks for .9, and -.2 for 1.1; left out, each does better with 1.
    probes = [bowl(curvature, alpha=1.0, steps=2, size=1) for curvature in (0.2, -0.2)]
    coefficients = check_fallback(calibrated(1), probes, point(1), "Eq. 8")
    assert coefficients == (1.0,)


# Probes that tell nothing


def undefined() -> BilevelProblem:
    return BilevelProblem(
        lambda params: (params["w"] - 100).sqrt().sum(),
        lambda params: params["w"].cos().sum(),
        0.1,
        4,
    )


def flat() -> BilevelProblem:
    return BilevelProblem(
        problem(0, 0.5, 4).inner_loss, lambda params: 0.0 * params["w"].sum(), 0.5, 4
    )


def diverging() -> BilevelProblem:
    return BilevelProblem(
        lambda params: params["w"].pow(4).sum(), lambda params: params["w"].square().sum(), 1e9, 4
    )


USELESS = {"undefined": undefined(), "flat": flat(), "diverging": diverging()}


@pytest.mark.parametrize("useless", USELESS.values(), ids=list(USELESS))
def test_probes_without_a_gradient_are_left_out(useless: BilevelProblem) -> None:
    usual = [problem(seed, 0.5, 4) for seed in range(4)]
    with_it, without = calibrated(2), calibrated(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_it.calibrate([useless, *usual, useless], THETA)
        without.calibrate(usual, THETA)
    assert with_it.calibration == without.calibration is not None


@pytest.mark.parametrize("useless", USELESS.values(), ids=list(USELESS))
def test_a_fit_without_any_gradient_is_refused(useless: BilevelProblem) -> None:
    estimator = calibrated(2)
    estimator.calibrate([problem(seed, 0.5, 4) for seed in range(4)], THETA)
    before = estimator.state_dict()
    with pytest.raises(OptionError, match="no probe has a finite meta-gradient"):
        estimator.calibrate([useless, useless], THETA)
    assert estimator.state_dict() == before


def test_a_fit_without_probes_is_refused() -> None:
    with pytest.raises(OptionError, match="no probe"):
        calibrated(1).calibrate([], THETA)


# Options and state


def test_order_zero_is_fomaml_and_needs_no_calibration() -> None:
    estimator = calibrated(0, refit_every=1)
    with count_hvps() as counter:
        for _ in range(3):
            assert not estimator.due
            estimator.calibrate([problem(0, 0.5, 3)], THETA)
            result = estimator(problem(0, 0.5, 3), THETA)
    assert estimator.calibration is None
    assert counter.products == result.hvps == result.serial_depth == 0
    expected = create("fomaml")(problem(0, 0.5, 3), THETA)
    assert torch.equal(result.gradient["w"], expected.gradient["w"])


def test_it_is_due_at_first_and_after_so_many_calls() -> None:
    estimator, probes = calibrated(1, refit_every=3), [problem(seed, 0.5, 3) for seed in range(2)]
    assert estimator.due
    estimator(probes[0], THETA)
    assert estimator.due
    for _ in range(2):
        estimator.calibrate(probes, THETA)
        for calls in range(5):
            assert estimator.due == (calls >= 3)
            estimator(probes[0], THETA)


def test_a_newer_fit_replaces_the_older() -> None:
    estimator, fresh = calibrated(2), calibrated(2)
    estimator.calibrate([problem(seed, 0.5, 4) for seed in range(3)], THETA)
    first = estimator.calibration
    for each in (estimator, fresh):
        each.calibrate([problem(seed, 1.0, 4) for seed in range(3)], THETA)
    assert estimator.calibration == fresh.calibration != first


@pytest.mark.parametrize("order", [-1, -5])
def test_negative_order_is_refused(order: int) -> None:
    with pytest.raises(OptionError, match=f"order={order} is outside"):
        calibrated(order)


@pytest.mark.parametrize("option", ["probes", "refit_every"])
def test_counts_below_one_are_refused(option: str) -> None:
    with pytest.raises(OptionError, match=f"{option} must be 1 or more"):
        calibrated(1, **{option: 0})


def test_order_above_the_depth_is_refused() -> None:
    estimator, shallow = calibrated(3), problem(0, 0.5, 2)
    message = r"binom-calibrated: order=3 is outside 0..2"
    with pytest.raises(OptionError, match=message):
        estimator(shallow, THETA)
    with pytest.raises(OptionError, match=message):
        estimator.calibrate([problem(0, 0.5, 3), shallow], THETA)
    assert estimator.misfit(3) is None
    assert estimator.calibration is None


def test_it_is_for_plain_descent_alone() -> None:
    estimator = calibrated(1)
    which = problem(0, 0.5, 2)
    heavy = BilevelProblem(which.inner_loss, which.outer_loss, 0.5, 2, momentum=0.5)
    with pytest.raises(OptionError, match="momentum"):
        estimator(heavy, THETA)
    with pytest.raises(OptionError, match="plain gradient descent"):
        estimator.calibrate([heavy], THETA)


def test_state_is_no_part_of_what_an_estimator_is() -> None:
    one, other = calibrated(2), calibrated(2)
    known, text = {one: "it"}, repr(one)
    one.calibrate([problem(seed, 0.5, 4) for seed in range(3)], THETA)
    one(problem(0, 0.5, 4), THETA)
    assert one == other
    assert hash(one) == hash(other)
    assert known[one] == known[other] == "it"
    assert repr(one) == text == repr(other)
    assert "state" not in text
    assert one != calibrated(1)
    assert one != calibrated(2, refit_every=3)


def test_estimators_of_one_spec_share_no_state() -> None:
    one, other = (create("binom-calibrated(order=2)") for _ in range(2))
    one.calibrate([problem(seed, 0.5, 4) for seed in range(3)], THETA)
    assert isinstance(one, BinomCalibrated)
    assert isinstance(other, BinomCalibrated)
    assert one.calibration is not None
    assert other.calibration is None
    assert other.due
    assert not one.due


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(state, allow_nan=False)
    return dict(json.loads(text))


def through_torch(state: dict[str, Any]) -> dict[str, Any]:
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("through", [through_json, through_torch])
@pytest.mark.parametrize("what", ["fresh", "fitted", "fallen back"])
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_state_survives_being_saved(through: Any, what: str) -> None:
    estimator, restored = (calibrated(2, refit_every=4) for _ in range(2))
    restored.calibrate([problem(seed, 1.0, 4) for seed in range(3)], THETA)  # to be overwritten
    if what == "fitted":
        estimator.calibrate([problem(seed, 0.5, 4) for seed in range(3)], THETA)
    if what == "fallen back":
        estimator.calibrate([slide(4)], THETA)
    for _ in range(2):
        estimator(problem(0, 0.5, 4), THETA)
    state = estimator.state_dict()
    restored.load_state_dict(through(state))
    assert restored.calibration == estimator.calibration
    assert restored.state_dict() == state == estimator.state_dict()
    for _ in range(3):
        assert restored.due == estimator.due
        results = [each(problem(1, 0.5, 4), THETA) for each in (estimator, restored)]
        assert torch.equal(results[0].gradient["w"], results[1].gradient["w"])
    assert restored.due
    assert estimator.due


def saved(**changes: Any) -> dict[str, Any]:
    """Returns a state of order 2, some fields of its calibration changed."""
    fields = {"coefficients": [0.9, 0.8], "error": 0.1, "fell_back": None}
    return {"calibration": fields | changes, "calls": 3}


def test_a_saved_state_is_a_snapshot() -> None:
    estimator, state = calibrated(2), saved()
    estimator.load_state_dict(state)
    state["calibration"]["coefficients"][0] = 7.0
    assert estimator.calibration is not None
    assert estimator.calibration.coefficients == (0.9, 0.8)
    estimator.state_dict()["calibration"]["coefficients"][0] = 7.0
    assert estimator.calibration.coefficients == (0.9, 0.8)


GARBAGE: dict[str, Any] = {
    "other order": saved(coefficients=[0.9]),
    "order zero": saved(coefficients=[]),
    "nan": saved(coefficients=[0.9, math.nan]),
    "infinite": saved(coefficients=[math.inf, 0.9]),
    "no numbers": saved(coefficients=["a", "b"]),
    "no list": saved(coefficients=3.0),
    "no error": saved(error=None),
    "nothing": None,
    "empty": {},
    "list": [],
    "text": "state",
    "no calls": {"calibration": None},
    "no number of calls": {"calibration": None, "calls": "many"},
    "no calibration": {"calls": 3},
    "empty calibration": {"calibration": {}, "calls": 3},
}
ACCEPTED: dict[str, Any] = {
    "text for coefficients": saved(coefficients="12"),
    "nan for error": saved(error=math.nan),
    "error below zero": saved(error=-1.0),
    "number for reason": saved(fell_back=3),
    "calls below zero": {"calibration": None, "calls": -3},
}
OVERFLOWING: dict[str, Any] = {
    "infinite calls": {"calibration": None, "calls": math.inf},
    "huge coefficients": saved(coefficients=[10**400, 1]),
}


@pytest.mark.parametrize(
    "state",
    [
        *(pytest.param(state, id=name) for name, state in GARBAGE.items()),
        *(pytest.param(state, id=name) for name, state in ACCEPTED.items()),
        *(pytest.param(state, id=name) for name, state in OVERFLOWING.items()),
    ],
)
def test_what_is_no_state_is_refused(state: Any) -> None:
    estimator = calibrated(2)
    estimator.load_state_dict(saved())
    with pytest.raises(OptionError, match="binom-calibrated: "):
        estimator.load_state_dict(state)
    assert estimator.state_dict() == saved()
