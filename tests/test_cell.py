"""Cells: their names and what they refuse."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from estimators import MetaGradient, OptionError
from estimators.base.estimator import Estimator
from estimators.base.registry import ESTIMATORS
from harness.cell import AXES, MOST_TRAINED, Cell

PARTS: dict[str, Any] = {
    "estimator": "fomaml",
    "task": "sinusoid",
    "model": "mlp-40-40",
    "depth": 5,
}


def test_names_stay_as_they_are() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8"),
        (
            {"estimator": "binom( order=2 )", "step_size": 1e-5, "seed": 3, "num_tasks": 1},
            "sinusoid/mlp-40-40/K5/alpha1e-05/binom(order=2)/cpu/float32/seed3/tasks1",
        ),
        (
            {"task": "glyphs(shots=5, ways=5)", "model": "conv4-32", "device": "cuda"},
            "glyphs:5way-5shot/conv4-32/K5/alpha0.01/fomaml/cuda:0/float32/seed0/tasks8",
        ),
        (
            {"task": "quadratic(drift=1)", "model": "linear", "depth": 0, "dtype": "float64"},
            "quadratic(drift=1.0)/linear/K0/alpha0.02/fomaml/cpu/float64/seed0/tasks8",
        ),
        (
            {"model": "mlp-40-40(init='torch')", "estimator": "imaml(lam=2, cg_steps=5)"},
            "sinusoid/mlp-40-40(init='torch')/K5/alpha0.01/imaml(lam=2.0)/cpu/float32/seed0/tasks8",
        ),
        (
            {"trained": 400},
            "sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8/trained400",
        ),
    ]
    for parts, name in cases:
        cell = Cell.of(**PARTS | parts)
        assert cell.id == name
        assert Cell.of(**dict(reversed((PARTS | parts).items()))) == cell
        assert cell.as_dict() == {key: getattr(cell, one.name) for key, one in AXES.items()}
        assert {type(value) for value in cell.as_dict().values()} == {str, int, float}


def test_spellings_of_one_cell_are_equal() -> None:
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"estimator": "imaml(lam=100)"}, {"estimator": "imaml"}),
        ({"estimator": "imaml(cg_steps=2, lam=7)"}, {"estimator": " imaml(lam=7.0,cg_steps=2)"}),
        ({"task": "sinusoid(shots=10)"}, {"task": "sinusoid()"}),
        ({"model": "mlp-40-40(init='maml')"}, {"model": "mlp-40-40"}),
        ({"device": "cuda"}, {"device": "cuda:0"}),
        ({"step_size": 0.01}, {"step_size": None}),
    ]
    for one, other in pairs:
        assert Cell.of(**PARTS | one) == Cell.of(**PARTS | other), one


def test_every_part_is_in_the_name() -> None:
    others: dict[str, Any] = {
        **{"estimator": "maml", "task": "sinusoid(shots=5)", "model": "mlp-100-100", "depth": 6},
        **{"step_size": 0.02, "device": "cuda:1", "dtype": "float64", "seed": 1},
        **{"num_tasks": 9, "trained": 1},
    }
    assert list(others) == [axis.name for axis in AXES.values()]
    for name, value in others.items():
        assert Cell.of(**PARTS | {name: value}).id != Cell.of(**PARTS).id, name


def test_wrong_parts_are_refused() -> None:
    cases: list[tuple[str, Any, str]] = [
        ("estimator", "fomalm", "'fomalm'.* fomaml"),
        ("estimator", "binom", "binom: option 'order'"),
        ("task", "sinus", "'sinus'"),
        ("model", "mlp", "'mlp'"),
        ("model", "conv4-32", "conv4-32 does not fit task sinusoid"),
        *(("step_size", size, f"{size} must") for size in (0.0, -0.1, math.nan, math.inf)),
        *(("device", name, f"device '{name}'") for name in ("gpu", "cuda:x", "cpu:0")),
        ("dtype", "float16", "'float16'.* float32, float64"),
        *((axis, -1, f"{axis} -1 ") for axis in ("depth", "seed", "trained")),
        ("num_tasks", 0, "tasks 0 "),
        ("trained", MOST_TRAINED + 1, "200001 .* 200,000"),
    ]
    for axis, value, message in cases:
        with pytest.raises(OptionError, match=message):
            Cell.of(**PARTS | {axis: value})


def test_group_is_all_but_the_estimator() -> None:
    one, other = (Cell.of(**PARTS | {"estimator": e}) for e in ("maml", "binom(order=2)"))
    assert one.group == other.group
    assert one.group.estimator == ""
    assert one.group != Cell.of(**PARTS | {"depth": 4}).group
    assert one.group != Cell.of(**PARTS | {"trained": 4}).group


def test_order_beyond_the_depth_is_a_misfit_and_no_error() -> None:
    assert Cell.of(**PARTS | {"estimator": "binom(order=5)"}).unsupported_reason() is None
    reason = Cell.of(**PARTS | {"estimator": "binom(order=6)"}).unsupported_reason()
    assert reason == "binom: order=6 is outside 0..5 (the depth is 5)"


@dataclass(frozen=True)
class Labelled(Estimator):
    """An estimator with any text as an option, as a third party's may."""

    label: str = ""
    other: str = ""

    def estimate(self, problem: Any, params: Any) -> MetaGradient:
        raise NotImplementedError


@pytest.fixture
def labelled() -> None:
    """Register the estimator above for one test."""
    ESTIMATORS.register("labelled")(Labelled)


AWKWARD = (
    *("a/b", "it's", "say \"a\"/'b'/", "back\\", "back\\\\/", "'/'", "(", "), x=(", "#"),
    *("/cpu/float32/seed0/tasks8", "a, b = c", "two\nlines", "Füße/日本"),
)


def cells_with_long_names() -> Iterator[Cell]:
    estimators = ["maml(checkpoint='sqrt')", "imaml(cg_steps=2, lam=1e-07)", "binom(order=12)"]
    estimators += [f"labelled(label={one!r}, other={other!r})" for one in AWKWARD for other in "a/"]
    settings = [
        ("sinusoid(shots=3)", "mlp-40-40(init='torch')"),
        ("glyphs:20way-5shot", "conv4-64"),
        ("quadratic(drift=1e-05, largest=100.0)", "linear"),
    ]
    rests: list[dict[str, Any]] = [
        {"depth": 0},
        {"depth": 50, "step_size": 1e-05, "device": "cuda", "dtype": "float64"},
        {"depth": 7, "step_size": 1 / 3, "seed": 123456789, "num_tasks": 1},
        {"depth": 7, "step_size": 1e22, "trained": 1},
        {"depth": 7, "step_size": 5e-324, "device": "cuda:15", "trained": MOST_TRAINED},
    ]
    for estimator, (task, model), rest in product(estimators, settings, rests):
        yield Cell.of(estimator=estimator, task=task, model=model, **rest)


@pytest.mark.usefixtures("labelled")
def test_every_name_is_read_back() -> None:
    cells = list(cells_with_long_names())
    assert len({cell.id for cell in cells}) == len(cells) == 29 * 3 * 5
    for cell in cells:
        assert Cell.parse(cell.id) == cell
    text = "sinusoid(shots=10)/mlp-40-40/K5/alpha1e-2/imaml( lam=100 )/cuda/float32/seed0/tasks8"
    cell = Cell.of(**PARTS | {"estimator": "imaml", "device": "cuda"})
    assert Cell.parse(text) == cell
    assert Cell.parse(cell.id + "/trained0") == cell


def test_text_that_is_no_name_is_refused_in_one_line() -> None:
    for text in (
        "",
        "sinusoid",
        "sinusoid/mlp-40-40/K5/alpha0.01/cpu/float32/seed0/tasks8",
        "sinusoid/mlp-40-40/K5/alpha0.01//cpu/float32/seed0/tasks8",
        "sinusoid/mlp-40-40/5/alpha0.01/fomaml/cpu/float32/seed0/tasks8",
        "sinusoid/mlp-40-40/K5/alpha/fomaml/cpu/float32/seed0/tasks8",
        "sinusoid/mlp-40-40/K5/alphanan/fomaml/cpu/float32/seed0/tasks8",
        "sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8/",
        "sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8/trained",
        "sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed-1/tasks8",
        "sinusoid/mlp-40-40/K5/alpha0.01/maml(checkpoint='sqrt)/cpu/float32/seed0/tasks8",
        "sinusoid/mlp-40-40/K5/alpha0.01/fomaml/cpu/float32/seed0/tasks8\n",
        f"sinusoid/mlp-40-40/K{'9' * 5000}/alpha0.01/fomaml/cpu/float32/seed0/tasks8",
    ):
        with pytest.raises(OptionError, match="like sinus") as error:
            Cell.parse(text)
        assert "\n" not in str(error.value), text
