"""Figures of cost, and the cost model behind one of them."""

import math

import pandas as pd

from estimators.base.phases import Phase
from reports.figures.cost import (
    cost_against_model,
    in_gradients,
    phases,
    work_against_depth,
    work_and_serial_depth,
)
from reports.figures.samples import samples_in_order
from reports.figures.style import PHASES
from tests.support.figure_rows import data, heading, layers, make_rows

PARTS = ("time_inner_loop", "time_outer_gradient", "time_meta_gradient")
TIMES = make_rows(
    *("maml", "fomaml"),
    time_inner_loop=[2.0, 2.5],
    time_outer_gradient=[1.0, 0.5],
    time_meta_gradient=[3.0, math.nan],
    time_inner_loop_low=[1.9, 2.4],
    time_inner_loop_high=[2.2, 2.6],
    time_meta_gradient_low=[2.8, math.nan],
    time_meta_gradient_high=[3.5, math.nan],
)


def test_costs_in_gradients_follow_the_estimator_and_its_counted_products() -> None:
    rows = make_rows("maml", "imaml", "binom(order=2)", depths=(5, 10), hvps=math.nan)
    assert in_gradients(rows).to_list() == [16, 17, 27, 31, 22, 57]
    stopped = make_rows("imaml", hvps=3.0)
    assert in_gradients(stopped).to_list() == [13]
    assert in_gradients(rows.head(0)).empty
    unknown = make_rows("someone:new", "anil", "binom", "who(ever", "imaml(option=1)", hvps=5.0)
    assert in_gradients(unknown).isna().all()


def test_work_stands_over_its_floor() -> None:
    rows = make_rows("maml", "someone:new", depths=(5, 10), time_ratio=[20.0, 9.0])
    chart = work_against_depth(rows)
    dashed = next(one for one in layers(chart, "line") if "strokeDash" in one["mark"])
    assert dashed["encoding"]["y"]["field"] == "floor"
    assert dashed["encoding"]["y"]["title"] == "time / inner gradient (×)"
    assert dashed["transform"] == [{"filter": "isValid(datum.floor)"}]
    drawn = {(row["estimator"], row["depth"]): row["floor"] for row in data(chart)}
    assert drawn["maml", 5] == 16
    assert drawn["maml", 10] == 31
    assert drawn["someone:new", 5] is None
    assert "dashed: cost model" in heading(chart)[1]
    unknown = work_against_depth(rows[rows["estimator"] == "someone:new"])
    assert "cost model" not in heading(unknown)[1]


def test_models_stand_at_their_size() -> None:
    small = make_rows("maml", "fomaml", baseline_memory=0.5, time=[2.0, 1.0], peak_memory=1.0)
    alike = small.assign(model="mlp-40-40(init='torch')")
    large = small.assign(model="mlp-100-100", baseline_memory=8.0)
    for cost in ("time", "peak_memory"):
        chart = cost_against_model(pd.concat([small, alike, large]), cost)
        (dots,) = layers(chart, "point")
        x = dots["encoding"]["x"]
        assert x["title"] == "model, at its baseline memory (MiB)"
        assert x["axis"]["values"] == [0.5, 8.0]
        for model in ("mlp-100-100", "mlp-40-40(init='torch')"):
            assert model in x["axis"]["labelExpr"]
        assert {(row["model"], row["baseline_memory"]) for row in data(chart)} == {
            *(("mlp-40-40", 0.5), ("mlp-40-40(init='torch')", 0.5), ("mlp-100-100", 8.0))
        }
        assert "mlp" not in heading(chart)[1]


def test_products_and_serial_ones_stand_side_by_side() -> None:
    rows = make_rows("maml", "fomaml", "binom(order=2)", hvps=[5, 0, 8], serial_depth=[5, 0, 2])
    chart = work_and_serial_depth(rows)
    counts = {(row["estimator"], row["kind"]): row["count"] for row in data(chart, "bar")}
    assert counts["binom(order=2)", "HVPs"] == 8
    assert counts["binom(order=2)", "serial HVPs"] == 2
    assert counts["fomaml", "HVPs"] == 0
    (bar,), (number,) = layers(chart, "bar"), layers(chart, "text")
    assert bar["encoding"]["yOffset"]["field"] == "kind"
    assert bar["encoding"]["y"]["sort"] == ["fomaml", "maml", "binom(order=2)"]
    assert number["encoding"]["text"]["field"] == "count"  # a bar of 0 cannot be seen
    assert "deterministic" in heading(chart)[1]


def test_phases_add_up_and_have_the_colours_of_profiles() -> None:
    assert [*PHASES] == [str(phase) for phase in Phase]
    chart = phases(TIMES)
    (bar,) = layers(chart, "bar")
    assert bar["encoding"]["y"]["sort"] == ["fomaml", "maml"]
    assert bar["encoding"]["x"]["title"] == "time (ms)"
    assert bar["encoding"]["color"]["scale"]["domain"] == [*PHASES]
    ends = {(row["estimator"], row["phase"]): row for row in data(chart, "bar")}
    maml = [ends["maml", phase] for phase in PHASES]
    assert [(row["start"], row["end"]) for row in maml] == [(0, 2), (2, 3), (3, 6)]
    assert [row["low"] for row in maml] == [1.9, None, 5.8]
    assert [row["high"] for row in maml] == [2.2, None, 6.5]
    assert ends["fomaml", "meta-gradient"]["length"] == 0
    (interval,) = layers(chart, "rule")
    assert interval["encoding"]["x2"]["field"] == "high"
    assert "quartiles" in heading(chart)[1]


def test_samples_have_a_panel_for_each_metric() -> None:
    taken = pd.DataFrame(
        {
            "metric": ["time (ms)"] * 3 + ["time / inner gradient (×)"] * 2,
            "sample": [1, 2, 3, 1, 2],
            "value": [5.0, 6.0, 7.0, 20.0, 21.0],
        }
    )
    chart = samples_in_order(taken)
    first, second = layers(chart, "line")
    assert first["encoding"]["y"]["title"] == "time (ms)"
    assert second["encoding"]["y"]["title"] == "time / inner gradient (×)"
    ranges = [one["encoding"]["y"]["scale"]["range"] for one in (first, second)]
    assert max(ranges[0]) < min(ranges[1])
    assert [row["value"] for row in data(chart, "line", 1)] == [20.0, 21.0]
    assert "No cell here" in str(samples_in_order(taken.head(0)).to_dict())
