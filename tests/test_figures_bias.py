"""Bias over order, depth and training, by task, and by angle: what is behind the marks."""

import math

import numpy as np
import pandas as pd
import pytest

from reports.figures.bias import (
    bias_against_order,
    bias_along_training,
    bias_by_task,
    cosine,
    spread,
)
from reports.figures.lines import apart
from tests.support.figure_rows import data, heading, layers, make_rows

ORDERS = make_rows(
    *("fomaml", "truncated(order=1)", "truncated(order=3)", "binom(order=1)", "maml"),
    bias=[1.0, 0.5, 0.1, 0.2, 0.0],
    bound=[6.0, 5.0, 2.0, 3.0, math.nan],
    bound_low=[5.0, 4.0, 1.0, -1.0, math.nan],
    bound_high=[7.0, 6.0, 3.0, 7.0, math.nan],
)
TRAINING = make_rows(
    *("fomaml", "binom(order=1)", "maml"),
    trained=(0, 100, 400),
    bias=[1.0, 0.2, 0.0],
    bias_low=[0.9, 0.1, 0.0],
    curvature=0.3,
    curvature_low=0.2,
    curvature_high=0.4,
).assign(curvature=lambda rows: 0.3 + rows["trained"] / 400)


def test_theory_allows_bias_up_to_a_dashed_line_and_its_band() -> None:
    chart = bias_against_order(ORDERS)
    dashed = next(one for one in layers(chart, "line") if "strokeDash" in one["mark"])
    assert dashed["encoding"]["y"]["field"] == "bound"
    bounds = {(row["family"], row["order"]): row["bound"] for row in data(chart, "line")}
    assert bounds == {
        **{("truncated", 0): 6.0, ("truncated", 1): 5.0, ("truncated", 3): 2.0},
        **{("binom", 0): 6.0, ("binom", 1): 3.0},
    }
    (dots,) = layers(chart, "point")
    assert dashed["encoding"]["y"]["scale"] == dots["encoding"]["y"]["scale"]
    assert dots["encoding"]["y"]["scale"]["domain"][1] >= 7.0
    (band,) = layers(chart, "area")
    assert band["encoding"]["y2"]["field"] == "bound_high"
    lows = {(row["family"], row["order"]): row["bound_low"] for row in data(chart, "area")}
    assert lows["truncated", 1] == 4
    assert lows["binom", 1] is None  # it reaches 0


def test_bounds_that_cannot_be_drawn_do_not_flatten_bias() -> None:
    for changed, most, note in (
        ({"bound": 1e12, "bound_high": 1e13}, 1e4, "(clipped)"),
        ({"bound": 2.0, "bound_high": math.inf}, 10, "dashed"),  # without a band
        *(({"bound": none}, 10, "") for none in (math.nan, 0.0, math.inf)),
    ):
        chart = bias_against_order(ORDERS.assign(**changed))
        (dots,) = layers(chart, "point")
        assert dots["encoding"]["y"]["scale"]["domain"][1] <= most, changed
        bands = layers(chart, "area")
        assert len(bands) == (note == "(clipped)"), changed
        assert all(one["mark"]["clip"] for one in bands)
        assert note in heading(chart)[1]
        assert ("bound" in heading(chart)[1]) == bool(note), changed


def test_variants_of_an_estimator_have_a_line_each() -> None:
    numeric = "binom(engine='finite-difference', order={})"
    rows = make_rows(
        *("fomaml", "fomaml(compiled=True)", "binom(order=1)", "binom(order=3)", "maml"),
        *(numeric.format(1), numeric.format(3)),
        bias=[1.0, 1.0, 0.2, 0.1, 0.0, 0.3, 0.2],
        bound=[6.0, 6.0, 3.0, 1.0, math.nan, 3.0, 1.0],
    )
    chart = bias_against_order(rows)
    assert all(one["encoding"]["detail"]["field"] == "line" for one in layers(chart, "line"))
    drawn = pd.DataFrame(data(chart, "line", 1))
    # Each goes from order 0 to K, both in the colour of binom, with a point for each order.
    assert set(drawn["family"]) == {"binom"}
    assert drawn.groupby("line")["order"].agg(sorted).to_dict() == {
        **{"binom": [0, 1, 3, 5], "binom(engine='finite-difference')": [0, 1, 3, 5]}
    }
    assert {row["family"] for row in data(chart)} == {"binom", "fomaml", "maml"}


def test_curvature_stands_below_bias_on_the_same_steps() -> None:
    chart = bias_along_training(TRAINING)
    spec = chart.to_dict()
    assert spec["width"] == "container"
    assert {(row["estimator"], row["trained"]) for row in data(chart)} == {
        (name, steps) for name in TRAINING["estimator"] for steps in (0, 100, 400)
    }
    below = layers(chart, "line")[-1]
    assert below["encoding"]["y"]["title"] == "alpha lambda_max"
    (dots,) = layers(chart, "point")
    assert below["encoding"]["x"] == dots["encoding"]["x"]
    assert min(dots["encoding"]["y"]["scale"]["range"]) == 0
    # The panels do not overlap.
    assert max(dots["encoding"]["y"]["scale"]["range"]) < min(
        below["encoding"]["y"]["scale"]["range"]
    )
    curve = [(row["trained"], row["curvature"]) for row in data(chart, "line", -1)]
    assert curve == [(0, 0.3), (100, 0.55), (400, 1.3)]
    assert data(chart, "rule", -1) == [{"one": 1.0}]
    assert "alpha lambda_max: bars are" in heading(chart)[1]
    bare = bias_along_training(TRAINING.assign(curvature=math.nan))
    assert len(data(bare)) == 9
    assert "lambda" not in heading(bare)[1]
    same = bias_along_training(TRAINING[TRAINING["trained"] == 100])
    assert "do not differ in meta-training" in str(same.to_dict())


def samples_of(values: dict[str, list[float]]) -> pd.DataFrame:
    rows = make_rows(*values)
    parts = [
        rows.iloc[[place]][["estimator", "family", "order", "task", "model", "depth"]].merge(
            pd.DataFrame({"sample": range(len(one)), "value": one}, dtype=float), how="cross"
        )
        for place, one in enumerate(values.values())
    ]
    return pd.concat(parts, ignore_index=True)


def test_every_task_is_a_point_and_medians_are_marked() -> None:
    values = {"fomaml": [3.0, 1.0, 2.0], "maml": [0.0, 1e-17, 0.0], "binom(order=1)": [1e-3, 0.1]}
    chart = bias_by_task(samples_of(values))
    drawn = pd.DataFrame(data(chart))
    assert drawn.groupby("estimator")["bias"].agg(list).to_dict() == values
    assert (drawn["bias_drawn"] > 0).all()
    (dots,) = layers(chart, "point")
    assert dots["encoding"]["x"]["scale"]["type"] == "log"
    assert dots["encoding"]["y"]["sort"] == ["maml", "binom(order=1)", "fomaml"]
    medians = {row["estimator"]: row for row in data(chart, "tick")}
    assert medians["fomaml"]["median_drawn"] == 2
    # Those of exact estimators stand where their points do.
    exact = drawn.loc[drawn["estimator"] == "maml", "bias_drawn"].unique()
    assert [medians["maml"]["median_drawn"]] == exact
    assert medians["maml"]["median"] == 0
    for none in (samples_of({"fomaml": []}), samples_of({"fomaml": [math.nan]})):
        assert "No cell here" in str(bias_by_task(none).to_dict())


def test_spread_is_that_of_numpy() -> None:
    values = [*np.random.default_rng(0).random(11)]
    (row,) = spread(samples_of({"fomaml": values, "maml": []})).to_dict("records")
    found = [row[name] for name in ("least", "low", "median", "high", "most")]
    assert found == pytest.approx(np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    assert (row["count"], row["family"]) == (11, "fomaml")


def test_angles_are_one_row_each() -> None:
    rows = make_rows(
        *("reptile", "maml", "fomaml"),
        cosine_distance=[0.5, 1e-33, 0.01],
        cosine_distance_low=[0.4, 0.0, -0.02],
        cosine_distance_high=[0.6, 1e-32, 0.04],
    )
    chart = cosine(rows)
    (dots,) = layers(chart, "point")
    assert dots["encoding"]["y"]["sort"] == ["maml", "fomaml", "reptile"]
    assert dots["encoding"]["x"]["title"] == "1 - cosine; exact: below 1e-24"
    assert dots["encoding"]["color"]["legend"] is None  # the axis names them
    drawn = {row["estimator"]: row for row in data(chart)}
    assert drawn["maml"]["cosine_distance"] < 1e-32  # hovering tells the number itself
    assert drawn["maml"]["cosine_distance_drawn"] < drawn["fomaml"]["cosine_distance_drawn"]
    assert len(layers(chart, "rule")) == 1


def test_labels_at_the_ends_of_lines_keep_apart() -> None:
    places = np.sort(np.random.default_rng(1).random(8)) * 0.2
    moved = apart(places, gap=0.1, top=1.0)
    assert all(np.diff(moved) >= 0.1 - 1e-12)
    assert moved[-1] <= 1.0 + 1e-12
    assert apart(np.array([0.0, 0.5]), gap=0.1, top=1.0) == [0.0, 0.5]
