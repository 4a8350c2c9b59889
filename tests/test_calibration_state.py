"""The options and the state of calibrated estimators, and how they are saved."""

import json
import math
from io import BytesIO
from typing import Any

import pytest
import torch

from estimators import BilevelProblem, OptionError, create
from estimators.hvp import count_hvps
from tests.support.probes import (
    THETA,
    calibrated,
    problem,
    slide,
)


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


def test_it_is_due_at_first_and_after_so_many_calls() -> None:
    estimator, probes = calibrated(1, refit_every=3), [problem(seed, 0.5, 3) for seed in range(2)]
    assert estimator.needs_calibration
    estimator(probes[0], THETA)
    assert estimator.needs_calibration
    for _ in range(2):
        estimator.calibrate(probes, THETA)
        for calls in range(5):
            assert estimator.needs_calibration == (calls >= 3)
            estimator(probes[0], THETA)


def test_a_newer_fit_replaces_the_older() -> None:
    estimator, fresh = calibrated(2), calibrated(2)
    estimator.calibrate([problem(seed, 0.5, 4) for seed in range(3)], THETA)
    first = estimator.calibration
    for each in (estimator, fresh):
        each.calibrate([problem(seed, 1.0, 4) for seed in range(3)], THETA)
    assert estimator.calibration == fresh.calibration != first


def test_numbers_out_of_their_range_are_refused() -> None:
    for order, options in ((-1, {}), (1, {"probes": 0}), (1, {"refit_every": 0})):
        with pytest.raises(OptionError):
            calibrated(order, **options)


def test_order_above_the_depth_is_refused() -> None:
    estimator, shallow = calibrated(3), problem(0, 0.5, 2)
    message = r"binom-calibrated: order=3 is outside 0..2"
    with pytest.raises(OptionError, match=message):
        estimator(shallow, THETA)
    with pytest.raises(OptionError, match=message):
        estimator.calibrate([problem(0, 0.5, 3), shallow], THETA)
    assert estimator.unsupported_reason(3) is None
    assert estimator.calibration is None


def test_it_is_for_plain_descent_alone() -> None:
    estimator = calibrated(1)
    which = problem(0, 0.5, 2)
    heavy = BilevelProblem(which.inner_loss, which.outer_loss, 0.5, 2, momentum=0.5)
    with pytest.raises(OptionError, match="momentum"):
        estimator(heavy, THETA)
    with pytest.raises(OptionError, match="plain gradient descent"):
        estimator.calibrate([heavy], THETA)


def test_state_is_no_part_of_an_estimators_identity() -> None:
    one, other = calibrated(2), calibrated(2)
    known, text = {one: "it"}, repr(one)
    one.calibrate([problem(seed, 0.5, 4) for seed in range(3)], THETA)
    one(problem(0, 0.5, 4), THETA)
    assert other.needs_calibration
    assert one == other
    assert hash(one) == hash(other)
    assert known[one] == known[other] == "it"
    assert repr(one) == text == repr(other)
    assert "state" not in text
    assert one != calibrated(1)
    assert one != calibrated(2, refit_every=3)


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
        assert restored.needs_calibration == estimator.needs_calibration
        results = [each(problem(1, 0.5, 4), THETA) for each in (estimator, restored)]
        assert torch.equal(results[0].gradient["w"], results[1].gradient["w"])
    assert restored.needs_calibration
    assert estimator.needs_calibration


def saved(**changes: Any) -> dict[str, Any]:
    """Return a state of order 2, some fields of its calibration changed."""
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


NO_STATES: dict[str, Any] = {
    "other order": saved(coefficients=[0.9]),
    "order zero": saved(coefficients=[]),
    "nan": saved(coefficients=[0.9, math.nan]),
    "infinite": saved(coefficients=[math.inf, 0.9]),
    "huge": saved(coefficients=[10**400, 1]),
    "no numbers": saved(coefficients=["a", "b"]),
    "text for coefficients": saved(coefficients="12"),
    "no list": saved(coefficients=3.0),
    "no error": saved(error=None),
    "nan for error": saved(error=math.nan),
    "error below zero": saved(error=-1.0),
    "number for reason": saved(fell_back=3),
    "nothing": None,
    "empty": {},
    "list": [],
    "text": "state",
    "no calls": {"calibration": None},
    "no number of calls": {"calibration": None, "calls": "many"},
    "infinite calls": {"calibration": None, "calls": math.inf},
    "calls below zero": {"calibration": None, "calls": -3},
    "no calibration": {"calls": 3},
    "empty calibration": {"calibration": {}, "calls": 3},
}


@pytest.mark.parametrize("state", NO_STATES.values(), ids=list(NO_STATES))
def test_other_things_than_states_are_refused(state: Any) -> None:
    estimator = calibrated(2)
    estimator.load_state_dict(saved())
    with pytest.raises(OptionError, match="binom-calibrated: "):
        estimator.load_state_dict(state)
    assert estimator.state_dict() == saved()
