"""Any metric against any other: fronts, zeros on log axes, small multiples."""

import math
import random
from itertools import product

import pandas as pd
import pytest

from harness.matrix.metrics import METRICS
from reports.figures.bias import bias_against_depth, bias_against_order
from reports.figures.scales import on_axis
from reports.figures.tradeoffs import (
    bias_against_memory,
    bias_against_products,
    bias_against_serial_products,
    bias_against_time,
    tradeoff,
)
from reports.tables.pareto import EXACT, pareto
from tests.support.figure_rows import data, heading, layers, make_rows

ROWS = make_rows(
    *("maml", "adjoint", "fomaml", "truncated(order=1)", "truncated(order=2)"),
    bias=[1e-17, 0.0, 1.0, 0.5, 0.2],
    bias_low=[0.0, 0.0, 0.9, -0.1, 0.1],
    bias_high=[1e-16, 0.0, 1.1, 1.2, 0.3],
    time_ratio=[16.0, 21.0, 6.0, 9.0, 18.0],
    time_ratio_low=[15.0, 20.0, 5.0, 8.0, 17.0],
    time_ratio_high=[17.0, 22.0, 7.0, 10.0, 19.0],
    hvps=[5.0, 5.0, 0.0, 1.0, 2.0],
    peak_memory=[3.0, 2.0, 1.0, 1.5, 1.6],
)


def beaten(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return other[0] <= one[0] and other[1] <= one[1] and other != one


def test_the_front_is_what_comparing_all_pairs_leaves() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        numbers = [*range(draw.randint(1, 12)), math.nan, math.inf]  # so that there are ties
        pairs = [(float(draw.choice(numbers)), float(draw.choice(numbers))) for _ in range(40)]
        rows = pd.DataFrame(pairs, columns=["time", "peak_memory"], index=range(100, 140))
        known = [pair for pair in pairs if not any(map(math.isnan, pair))]
        expected = [pair in known and not any(beaten(pair, one) for one in known) for pair in pairs]
        front = pareto(rows, "time", "peak_memory")
        assert front.to_list() == expected, seed
        assert list(front.index) == list(rows.index)
    assert pareto(ROWS.head(0), "time", "bias").empty
    assert not pareto(ROWS, "time", "bias").any()  # of which no time is known


def test_rounding_is_no_advantage() -> None:
    rows = pd.DataFrame({"time": [1.0, 2.0, 3.0], "bias": [EXACT / 2, 0.0, 0.0]})
    assert pareto(rows, "time", "bias").to_list() == [True, False, False]
    assert pareto(rows.rename(columns={"bias": "flops"}), "time", "flops").to_list() == [
        *(True, True, False)
    ]


def test_what_is_beaten_is_faded_and_the_front_goes_in_steps() -> None:
    chart = tradeoff(ROWS, "time_ratio", "bias")
    front = {row["estimator"] for row in data(chart) if row["front"]}
    assert front == {"maml", "fomaml", "truncated(order=1)"}
    (dots,) = layers(chart, "point")
    assert dots["encoding"]["opacity"]["value"] < 1
    assert dots["encoding"]["opacity"]["condition"] == {"test": "datum.front", "value": 1}
    steps = layers(chart, "line")[1]
    assert steps["mark"]["interpolate"] == "step-after"
    assert steps["encoding"]["order"]["field"] == "time_ratio_drawn"
    assert "Pareto front" in heading(chart)[1]
    # Less curvature is not better.
    chart = tradeoff(ROWS.assign(curvature=0.5), "curvature", "bias")
    assert not any(row["front"] for row in data(chart))
    assert len(layers(chart, "line")) == 1
    assert "Pareto" not in heading(chart)[1]


def test_small_multiples_have_a_titled_panel_and_a_front_each() -> None:
    slower = ROWS.assign(time_ratio=2 * ROWS["time_ratio"], depth=10, model="mlp-100-100")
    titles = {"depth": ["K = 5", "K = 10"], "model": ["mlp-40-40", "mlp-100-100"]}
    for by, panels in titles.items():
        chart = tradeoff(pd.concat([ROWS, slower]), "time_ratio", "bias", by=by)
        facet = chart.to_dict()["facet"]
        assert (facet["field"], facet["sort"]) == ("panel", panels)
        assert {row["panel"] for row in data(chart)} == {*panels}
        assert sum(row["front"] for row in data(chart)) == 2 * 3, by


def test_exact_maml_is_a_rule_across_bias_against_products() -> None:
    names = ("fomaml", "maml", "krylov(products=2)", "krylov(products=4)", "binom(order=1)")
    rows = make_rows(
        *(*names, "ufom(q=0.1)"),
        depths=(20,),
        bias=[2.0, 1e-17, 0.3, 0.1, 0.2, 1e-3],
        spread=[*[math.nan] * 5, 3.0],
        hvps=[0.0, 20.0, 2.0, 4.0, 20.0, 2.0],
        serial_depth=[0.0, 20.0, 2.0, 4.0, 1.0, 2.0],
    )
    fronts = {
        "hvps": {"fomaml", "maml", "krylov(products=2)", "krylov(products=4)"},
        "serial_depth": {"fomaml", "maml", "binom(order=1)", "krylov(products=4)"},
    }
    figures = {"hvps": bias_against_products, "serial_depth": bias_against_serial_products}
    for name, figure in figures.items():
        chart = figure(rows)
        assert [row["series"] for row in data(chart)].count("krylov") == 2
        assert {row["estimator"] for row in data(chart) if row["front"]} == fronts[name]
        # With fomaml, whose 0 has a place on the axis, and without estimators that are random.
        assert {row["estimator"] for row in data(chart)} == {*names}
        (rule,) = [one for one in layers(chart, "rule") if "y2" in one["encoding"]]
        assert "maml" in rule["transform"][0]["filter"]
        assert rule["encoding"]["x"]["field"] == f"{name}_drawn"
        ends = {"y": {"value": 0}, "y2": {"value": "height"}}
        assert {channel: rule["encoding"][channel] for channel in ends} == ends
        stages = figure(pd.concat([rows, rows.assign(trained=400)])).to_dict()
        assert [panel.partition(" ")[0] for panel in stages["facet"]["sort"]] == ["0", "400"]


def test_lines_join_orders_that_differ_in_nothing_else() -> None:
    names = ("hybrid(order=1, window=4)", "hybrid(order=2, window=4)", "hybrid(order=1, window=5)")
    rows = data(bias_against_time(make_rows(*names, bias=0.1, time_ratio=2.0)))
    assert [row["series"] for row in rows] == [*2 * ["hybrid(window=4)"], "hybrid(window=5)"]


def test_zeros_stay_on_log_axes() -> None:
    for x, y in product(("hvps", "cosine_distance"), ("bias", "serial_depth")):
        rows = make_rows("a", "b", "c")
        rows[x], rows[y] = [0.0, 1.0, 3.0], [2.0, 0.0, 0.5]
        chart = tradeoff(rows, x, y)
        drawn = data(chart)
        assert len(drawn) == 3
        (dots,) = layers(chart, "point")
        for channel, name in (("x", x), ("y", y)):
            scale, axis = (dots["encoding"][channel][part] for part in ("scale", "axis"))
            assert scale["type"] == "log"
            values = sorted(row[f"{name}_drawn"] for row in drawn)
            assert 0 < scale["domain"][0] == values[0] < values[1], (x, y)
            assert values[-1] <= scale["domain"][1]
            assert axis["values"][0] == scale["domain"][0]
            word = "exact" if name in ("bias", "cosine_distance") else "0"
            assert f"'{word}'" in axis["labelExpr"]


def test_a_linear_axis_draws_what_is_there() -> None:
    chart = tradeoff(ROWS, "hvps", "bias", x_log=False, y_log=False)
    rows = {row["estimator"]: row for row in data(chart)}
    assert rows["fomaml"]["hvps_drawn"] == 0
    assert rows["truncated(order=1)"]["bias_drawn_low"] < 0
    (dots,) = layers(chart, "point")
    assert dots["encoding"]["x"]["scale"] == dots["encoding"]["y"]["scale"] == {}


def test_intervals_that_reach_zero_end_where_the_axis_does() -> None:
    rows, y = on_axis(ROWS, "y", "bias")
    drawn = rows.set_index("estimator")["bias_drawn_low"]
    bottom = y["axis"]["values"][1]
    assert drawn["truncated(order=1)"] == pytest.approx(bottom)
    assert math.isnan(drawn["maml"])
    assert drawn["truncated(order=2)"] == pytest.approx(0.1)
    low = on_axis(make_rows("a", "b", time=[1.0, 2.0], time_low=[-1.0, 1.5]), "x", "time")[0]
    assert low["time_drawn_low"].min() > 0


def test_ticks_span_the_numbers_and_are_few() -> None:
    for values in ([1e-9, 1e5], [0.3, 0.4], [1e-11], [1.0], [2e-11, 1e300]):
        rows, y = on_axis(make_rows(*"abcdef"[: len(values)], bias=values), "y", "bias")
        low, high = y["scale"]["domain"]
        assert low <= min(values) <= max(values) <= high, values
        assert low < high
        ticks = y["axis"]["values"]
        assert 2 <= len(ticks) <= 9
        assert ticks == sorted(ticks)
        assert low <= ticks[0] < ticks[-1] == high
        assert "exact" not in y["title"]
        assert len(rows) == len(values)


def test_subtitle_says_what_bars_are_or_why_there_are_none() -> None:
    title, below = heading(bias_against_time(ROWS))
    assert title == "Bias against time / inner gradient"
    *_, error, time = below.splitlines()
    assert "95 %" in error
    assert "quartiles" in time
    assert heading(tradeoff(ROWS, "peak_memory", "resident_memory"))[1] == ""  # not measured
    assert "deterministic" in heading(bias_against_memory(ROWS))[1].splitlines()[-1]


def test_every_metric_can_stand_on_either_axis() -> None:
    for name in METRICS:
        rows = make_rows("maml", "binom(order=1)")
        rows[name] = [1.0, 2.0]
        for log in (True, False):
            chart = tradeoff(rows, name, name, x_log=log, y_log=log)
            assert len(data(chart)) == 2, name
            (dots,) = layers(chart, "point")
            for channel in "xy":
                assert dots["encoding"][channel]["title"].startswith(METRICS[name].title)


def test_numbers_near_the_largest_float_have_an_axis() -> None:
    for most, log in product((1e200, 1.7e308), (True, False)):
        rows = make_rows(
            *("maml", "fomaml", "binom(order=1)"),
            bias=[0.0, 1e-3, most],
            bias_low=[0.0, 1e-4, -math.inf],
            bias_high=[0.0, 1e-2, math.inf],
            time_ratio=[1.0, 2.0, 3.0],
        )
        chart = tradeoff(rows, "time_ratio", "bias", y_log=log)
        drawn = {row["estimator"]: row for row in data(chart)}
        assert drawn["binom(order=1)"]["bias"] == most
        assert drawn["binom(order=1)"]["bias_drawn_low"] is None  # it has no end to draw
        assert drawn["fomaml"]["bias_drawn_high"] == pytest.approx(1e-2)
        if log:
            ends = layers(chart, "point")[0]["encoding"]["y"]["scale"]["domain"]
            places = [row["bias_drawn"] for row in drawn.values()]
            assert 0 < ends[0] <= min(places) < max(places) <= ends[1] < math.inf, most
        assert len(data(bias_against_order(rows))) == 3
        assert len(data(bias_against_depth(rows))) == 3


def test_every_positive_float_has_a_place() -> None:
    least = 5e-324
    for value in (least, 1e-300, 1e-201, 1.0, 9.9e307, 1.7e308):
        for other in (0.0, least, 1.0, 1.7e308):
            rows, y = on_axis(make_rows("a", "b", "c", time=[value, other, 0.0]), "y", "time")
            low, high = y["scale"]["domain"]
            assert 0 < low < high < math.inf, (value, other)
            assert rows["time_drawn"].between(low, high).all(), (value, other)
            assert all(map(math.isfinite, y["axis"]["values"]))
