"""The fit of the calibrated estimator's weights against dense linear algebra, and its state."""

import json
import math
import warnings
from functools import cache
from io import BytesIO
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, OptionError, Params, create
from estimators.binom_calibrated import BinomCalibrated
from estimators.hvp import count_hvps
from harness.conformance.cases import case
from tests.support.calibration_problems import (
    SIZE,
    THETA,
    WELL_POSED,
    Dense,
    bowl,
    calibrated,
    errors_of_all,
    fitted,
    least_squares,
    problem,
    problems,
    root_mean_square,
    slide,
    total_error,
)
from tests.support.cases import EXACT, every_case
from tests.support.oracle import flatten, relative_error


@cache
def dense(seed: int, alpha: float, steps: int, order: int) -> Dense:
    return Dense(problem(seed, alpha, steps), THETA, order)


@every_case
def test_before_calibration_it_is_binom(name: str) -> None:
    example = case(name)
    for steps in range(6):
        for order in range(steps + 1):
            problem, estimator = example.problem(steps), calibrated(order)
            with count_hvps() as counter:
                result = estimator(problem, example.params)
            binom = create("binom", order=order)(problem, example.params)
            assert estimator.calibration is None
            assert relative_error(result.gradient, flatten(binom.gradient)) < EXACT, (steps, order)
            assert (result.hvps, result.serial_depth) == (counter.products, order)


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
    task, calibration = dense(0, 0.5, 4, 2), fitted(2, problems(1, 0.5, 4), THETA)
    assert calibration.coefficients == pytest.approx(least_squares([task]).tolist(), rel=1e-6)
    expected_error = total_error([task], calibration.coefficients)
    assert calibration.error == pytest.approx(expected_error, rel=1e-6)  # fitted to itself


def test_estimate_has_the_fitted_weights_and_is_better_on_other_tasks_too() -> None:
    estimator = calibrated(2)
    estimator.calibrate(problems(8, 0.5, 4), THETA)
    assert estimator.calibration is not None
    weights = torch.tensor(estimator.calibration.coefficients, dtype=torch.float64)
    others = {seed: dense(seed, 0.5, 4, 2) for seed in range(100, 110)}
    for seed, task in others.items():
        result = estimator(problem(seed, 0.5, 4), THETA)
        assert relative_error(result.gradient, task.g + task.levels @ weights) < EXACT
    errors = [
        median(
            relative_error(one(problem(seed, 0.5, 4), THETA).gradient, task.exact)
            for seed, task in others.items()
        )
        for one in (estimator, create("binom(order=2)"), create("fomaml"))
    ]
    assert errors[0] < 0.8 * min(errors[1:])


def test_probes_may_differ_in_depth_step_size_and_curvature() -> None:
    kinds = [(0, 0.3, 3), (1, 0.6, 5), (2, 0.9, 4), (3, 0.5, 2)]
    curvatures, point = (0.5, 1.0, 2.0, 3.0), line(SIZE)
    different: list[tuple[int, list[BilevelProblem], Params]] = [
        (2, [problem(*kind) for kind in kinds], THETA),
        # levels that are collinear only within each task
        (3, [bowl(curvature, alpha=0.3, steps=4) for curvature in curvatures], point),
        # tasks of one parameter have room for as many coefficients as there are tasks
        (2, [bowl(curvature, 0.3, 3, size=1) for curvature in curvatures], line(1)),
    ]
    for order, probes, theta in different:
        calibration = fitted(order, probes, theta)
        assert calibration.fell_back is None
        expected = least_squares([Dense(each, theta, order) for each in probes])
        assert calibration.coefficients == pytest.approx(expected.tolist(), rel=1e-4)


def test_each_task_counts_alike_whatever_the_size_of_its_gradient() -> None:
    first, *others = problems(5, 0.5, 4)
    large = BilevelProblem(first.inner_loss, lambda params: 1e6 * first.outer_loss(params), 0.5, 4)
    one, other = (fitted(2, [probe, *others], THETA) for probe in (first, large))
    assert one.fell_back is other.fell_back is None
    assert one.coefficients == pytest.approx(other.coefficients, rel=1e-9)


def test_fit_in_single_precision_is_near_that_in_double_precision() -> None:
    single, double = (
        fitted(2, [example.problem(4)], example.params)
        for example in (case("mlp", torch.float32), case("mlp"))
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
    for alpha, order in ((1e-4, 4), (1e-3, 4), (1e-3, 5), (1.0, 5)):  # very small errors
        calibration = fitted(order, problems(6, alpha, 5), THETA)
        tasks = [dense(seed, alpha, 5, order) for seed in range(6)]
        own, rivals = errors_of_all(tasks, calibration.coefficients)
        assert own <= 2 * rivals + 1e-15, (alpha, order)
        assert calibration.error < 1e-12, (alpha, order)


# Probes from which little can be fitted, or nothing.


def line(size: int) -> Params:
    return {"w": torch.linspace(-1, 2, size).double()}


def check_fallback(
    estimator: BinomCalibrated, probes: list[BilevelProblem], theta: Params, reason: str
) -> tuple[float, ...]:
    """Check that a fit falls back, warns and does no harm; return its coefficients."""
    with pytest.warns(UserWarning, match="binom-calibrated: ") as caught:
        estimator.calibrate(probes, theta)
    calibration = estimator.calibration
    assert calibration is not None
    assert calibration.fell_back is not None
    assert reason in calibration.fell_back
    assert len(caught) == 1
    assert calibration.fell_back in str(caught[0].message)
    assert len(calibration.coefficients) == estimator.order
    assert all(math.isfinite(value) for value in (*calibration.coefficients, calibration.error))
    own, rivals = errors_of_all(
        [Dense(each, theta, estimator.order) for each in probes], calibration.coefficients
    )
    assert own <= rivals + 1e-9
    assert not estimator.needs_calibration
    return calibration.coefficients


def test_collinear_levels_are_fitted_by_the_first() -> None:
    probes = [bowl(2.0, alpha=0.3, steps=4) for _ in range(3)]
    estimator = calibrated(3)
    coefficients = check_fallback(estimator, probes, line(SIZE), "the first 1 of 3 levels")
    assert coefficients[0] == pytest.approx((1 - (1 - 0.6) ** 4) / (4 * 0.6), rel=1e-6)
    assert coefficients[1:] == (0.0, 0.0)
    assert estimator.calibration is not None
    assert estimator.calibration.error < 1e-6
    one_parameter = [bowl(2.0, alpha=0.3, steps=3, size=1)]
    check_fallback(calibrated(2), one_parameter, line(1), "the first 1 of 2 levels")

    def inner_loss(params: Params) -> Tensor:
        return 0.5 * (torch.tensor([1.0, 2.0]).double() * params["w"].square()).sum()

    two = BilevelProblem(inner_loss, bowl(1.0, 0.3, 5, size=2).outer_loss, 0.3, 5)
    check_fallback(calibrated(4), [two], line(2), "the first 2 of 4 levels")


def test_levels_that_are_zero_are_not_fitted() -> None:
    for count in (1, 3):
        estimator = calibrated(2)
        coefficients = check_fallback(estimator, [slide(3)] * count, THETA, "Eq. 8")
        assert coefficients == (1.0, 1.0)
        assert estimator.calibration is not None
        assert estimator.calibration.error == 0
        fomaml = create("fomaml")(slide(3), THETA)
        assert torch.equal(flatten(estimator(slide(3), THETA).gradient), flatten(fomaml.gradient))
    curved = problems(4, 0.5, 4)  # which such tasks do not disturb
    both, only = (fitted(2, probes, THETA) for probes in ([slide(4), *curved, slide(4)], curved))
    assert both.coefficients == pytest.approx(only.coefficients, rel=1e-9)


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


def test_tasks_that_contradict_each_other_end_in_fomaml_or_binom() -> None:
    # One coefficient: alpha H of .1 asks for .95, and alpha H of 4 for -1; alpha H of .2 asks for
    # .9, and -.2 for 1.1: left out, each does better with 1.
    for pair, reason, value in (((0.1, 4.0), "fomaml", 0.0), ((0.2, -0.2), "Eq. 8", 1.0)):
        probes = [bowl(curvature, alpha=1.0, steps=2, size=1) for curvature in pair]
        assert check_fallback(calibrated(1), probes, line(1), reason) == (value,)


def test_probes_without_a_gradient_are_left_out_and_refused_where_there_are_no_others() -> None:
    usual = problems(4, 0.5, 4)
    useless = {
        "undefined": BilevelProblem(
            lambda params: (params["w"] - 100).sqrt().sum(),
            lambda params: params["w"].cos().sum(),
            0.1,
            4,
        ),
        "flat": BilevelProblem(usual[0].inner_loss, lambda params: 0.0 * params["w"].sum(), 0.5, 4),
        "diverging": BilevelProblem(
            lambda params: params["w"].pow(4).sum(),
            lambda params: params["w"].square().sum(),
            1e9,
            4,
        ),
    }
    for name, probe in useless.items():
        estimator = calibrated(2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimator.calibrate([probe, *usual, probe], THETA)
            assert estimator.calibration == fitted(2, usual, THETA), name
        before = estimator.state_dict()
        for none in ([probe, probe], []):
            with pytest.raises(OptionError, match="no probe"):
                estimator.calibrate(none, THETA)
            assert estimator.state_dict() == before, name


# Options, and the state and how it is saved.


def test_order_zero_is_fomaml_and_needs_no_calibration() -> None:
    estimator = calibrated(0, refit_every=1)
    with count_hvps() as counter:
        for _ in range(3):
            assert not estimator.needs_calibration
            estimator.calibrate([problem(0, 0.5, 3)], THETA)
            result = estimator(problem(0, 0.5, 3), THETA)
    assert estimator.calibration is None
    assert counter.products == result.hvps == result.serial_depth == 0
    expected = create("fomaml")(problem(0, 0.5, 3), THETA)
    assert torch.equal(result.gradient["w"], expected.gradient["w"])


def test_it_is_due_at_first_and_after_so_many_calls_and_a_newer_fit_replaces_the_older() -> None:
    estimator, fits = calibrated(1, refit_every=3), []
    estimator(problem(0, 0.5, 3), THETA)
    assert estimator.needs_calibration
    for alpha in (0.5, 1.0):
        estimator.calibrate(problems(2, alpha, 3), THETA)
        fits.append(estimator.calibration)
        for calls in range(5):
            assert estimator.needs_calibration == (calls >= 3)
            estimator(problem(0, 0.5, 3), THETA)
    assert fits == [fitted(1, problems(2, alpha, 3), THETA) for alpha in (0.5, 1.0)]
    assert fits[0] != fits[1]


def test_options_out_of_range_and_problems_that_do_not_fit_are_refused() -> None:
    for order, options in ((-1, {}), (1, {"probes": 0}), (1, {"refit_every": 0})):
        with pytest.raises(OptionError):
            calibrated(order, **options)
    estimator, usual = calibrated(3), problem(0, 0.5, 3)
    heavy = BilevelProblem(usual.inner_loss, usual.outer_loss, 0.5, 3, momentum=0.5)
    with pytest.raises(OptionError, match="real"):
        estimator.calibrate(
            [usual], {name: value.to(torch.complex64) for name, value in THETA.items()}
        )
    for wrong, message in (
        (problem(0, 0.5, 2), r"order=3 is outside 0\.\.2"),
        (heavy, "plain grad"),
    ):
        with pytest.raises(OptionError, match=message):
            estimator(wrong, THETA)
        with pytest.raises(OptionError, match=message):
            estimator.calibrate([usual, wrong], THETA)
    assert estimator.calibration is None


def test_state_is_no_part_of_an_estimators_identity() -> None:
    one, other = calibrated(2), calibrated(2)
    known, text = {one: "it"}, repr(one)
    one.calibrate(problems(3, 0.5, 4), THETA)
    one(problem(0, 0.5, 4), THETA)
    assert other.needs_calibration
    assert one == other
    assert known[one] == known[other] == "it"
    assert repr(one) == text == repr(other)
    assert one != calibrated(1)
    assert one != calibrated(2, refit_every=3)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(state, allow_nan=False)))


def through_torch(state: dict[str, Any]) -> dict[str, Any]:
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("probes", [[], problems(3, 0.5, 4), [slide(4)]], ids=len)
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_state_survives_being_saved(probes: list[BilevelProblem]) -> None:
    for through in (through_json, through_torch):
        estimator, restored = (calibrated(2, refit_every=4) for _ in range(2))
        restored.calibrate(problems(3, 1.0, 4), THETA)  # to be overwritten
        if probes:
            estimator.calibrate(probes, THETA)
        for _ in range(2):
            estimator(problem(0, 0.5, 4), THETA)
        state = estimator.state_dict()
        restored.load_state_dict(through(state))
        assert restored.calibration == estimator.calibration
        assert restored.state_dict() == state == estimator.state_dict()
        for _ in range(3):
            assert restored.needs_calibration == estimator.needs_calibration
            results = [each(problem(1, 0.5, 4), THETA) for each in (estimator, restored)]
            assert torch.equal(results[0].gradient["w"], results[1].gradient["w"])
        assert restored.needs_calibration
        assert estimator.needs_calibration


def saved(**changes: Any) -> dict[str, Any]:
    """Return a state of order 2, some fields of its calibration changed."""
    fields = {"coefficients": [0.9, 0.8], "error": 0.1, "fell_back": None}
    return {"calibration": fields | changes, "calls": 3}


def test_a_saved_state_is_a_snapshot_and_other_things_are_refused() -> None:
    estimator, state = calibrated(2), saved()
    estimator.load_state_dict(state)
    for each in (state, estimator.state_dict()):
        each["calibration"]["coefficients"][0] = 7.0
        assert estimator.state_dict() == saved()
    wrong_calibrations: list[dict[str, Any]] = [
        *({"coefficients": values} for values in ([0.9], [], [0.9, math.nan], [math.inf, 0.9])),
        *({"coefficients": values} for values in ([10**400, 1], ["a", "b"], "12", 3.0)),
        *({"error": value} for value in (None, math.nan, -1.0)),
        {"fell_back": 3},
    ]
    wrong: list[Any] = [saved(**changes) for changes in wrong_calibrations]
    wrong += [{"calibration": None, "calls": calls} for calls in ("many", math.inf, -3)]
    wrong += [None, {}, [], "state", {"calibration": None}, {"calls": 3}]
    wrong += [{"calibration": {}, "calls": 3}]
    for each in wrong:
        with pytest.raises(OptionError, match="binom-calibrated: "):
            estimator.load_state_dict(each)
        assert estimator.state_dict() == saved(), each
