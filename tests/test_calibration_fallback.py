"""Probes from which little can be fitted, or nothing."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, OptionError, Params, create
from estimators.binom_calibrated import BinomCalibrated
from tests.support.oracle import flatten
from tests.support.probes import (
    SIZE,
    THETA,
    Dense,
    bowl,
    calibrated,
    errors_of_all,
    fitted,
    least_squares,
    problem,
    slide,
)


def point(size: int) -> Params:
    return {"w": torch.linspace(-1, 2, size).double()}


def check_fallback(
    estimator: BinomCalibrated, probes: list[BilevelProblem], theta: Params, words: str
) -> tuple[float, ...]:
    """Check that a fit fell back, said so, and did no harm; returns its coefficients."""
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
    assert not estimator.needs_calibration
    return found.coefficients


def test_collinear_levels_are_fitted_by_the_first() -> None:
    probes = [bowl(2.0, alpha=0.3, steps=4) for _ in range(3)]
    estimator = calibrated(3)
    coefficients = check_fallback(estimator, probes, point(SIZE), "the first 1 of 3 levels")
    assert coefficients[0] == pytest.approx((1 - (1 - 0.6) ** 4) / (4 * 0.6), rel=1e-6)
    assert coefficients[1:] == (0.0, 0.0)
    assert estimator.calibration is not None
    assert estimator.calibration.error < 1e-6


def test_levels_of_other_curvatures_are_collinear_only_within_each_task() -> None:
    theta = point(SIZE)
    probes = [bowl(curvature, alpha=0.3, steps=4) for curvature in (0.5, 1.0, 1.5, 2.0)]
    calibration = fitted(3, probes, theta)
    assert calibration.fell_back is None
    expected = least_squares([Dense(each, theta, 3) for each in probes])
    assert calibration.coefficients == pytest.approx(expected.tolist(), rel=1e-4)


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
    both, alone = (fitted(2, probes, THETA) for probes in ([slide(4), *curved, slide(4)], curved))
    assert both.coefficients == pytest.approx(alone.coefficients, rel=1e-9)


def test_one_parameter_has_room_for_one_coefficient() -> None:
    probes = [bowl(2.0, alpha=0.3, steps=3, size=1)]
    check_fallback(calibrated(2), probes, point(1), "the first 1 of 2 levels")


def test_tasks_of_one_parameter_have_room_for_as_many_coefficients_as_there_are_tasks() -> None:
    theta = point(1)
    probes = [bowl(curvature, alpha=0.3, steps=3, size=1) for curvature in (0.5, 1.0, 2.0, 3.0)]
    expected = least_squares([Dense(each, theta, 2) for each in probes])
    assert fitted(2, probes, theta).coefficients == pytest.approx(expected.tolist(), rel=1e-6)


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
def test_probes_without_a_gradient_are_left_out_and_refused_where_there_are_no_others(
    useless: BilevelProblem,
) -> None:
    usual = [problem(seed, 0.5, 4) for seed in range(4)]
    estimator = calibrated(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.calibrate([useless, *usual, useless], THETA)
        assert estimator.calibration == fitted(2, usual, THETA)
    before = estimator.state_dict()
    for none in ([useless, useless], []):
        with pytest.raises(OptionError, match="no probe"):
            estimator.calibrate(none, THETA)
        assert estimator.state_dict() == before
