"""Break-even depths with exact MAML, in tables and figures."""

import json
import math
from typing import Any

import pandas as pd
import pytest

from reports.figures.parallel import options_text, time_against_serial_depth, time_over_exact
from reports.tables.break_even import (
    break_even_depth,
    break_even_table,
    break_evens,
    compiling_pays,
    over_exact,
)
from reports.tables.cells import in_few_parts
from tests.support.figure_rows import data, heading, layers, make_rows

VMAP = "binom(batching='vmap', order=2)"


def cells(depths: tuple[int, ...] = (5, 20), **ratios: list[float]) -> pd.DataFrame:
    """Rows of maml and of what is named: estimator's label to a time ratio for each depth."""
    names = {"vmap": VMAP, "adjoint": "adjoint", "maml": "maml"}
    rows = make_rows(*(names[label] for label in ratios), depths=depths)
    flat = [ratios[label][place] for place in range(len(depths)) for label in ratios]
    rows = rows.assign(time_ratio=flat, version="v", cell=[f"c{n}" for n in range(len(rows))])
    return rows.assign(version_label="v", serial_depth=2.0)


def long_of(rows: pd.DataFrame, *spread: float) -> pd.DataFrame:
    """Their samples of time: the time ratio, times each of some factors."""
    taken = [[value * factor for factor in spread or (1.0,)] for value in rows["time_ratio"]]
    long = pd.DataFrame({"run": rows["run"], "cell": rows["cell"], "samples": taken})
    return long.assign(metric="time")


def compared(rows: pd.DataFrame, *spread: float) -> pd.DataFrame:
    return over_exact(long_of(rows, *spread), rows, rows)


def test_break_even_depth_is_where_the_ratio_falls_to_1_for_good() -> None:
    cases: list[tuple[list[float], list[float], float]] = [
        ([5, 20], [2.0, 0.5], 10.0),  # halfway in both logarithms
        ([5, 20, 50], [2.0, 1.0, 0.5], 20.0),
        ([5, 20], [1.0, 0.9], 0.0),
        ([5], [0.9], 0.0),
        ([5, 20], [3.0, 1.2], math.inf),
        ([5, 20], [0.5, 1.2], math.inf),  # quicker once, but not at the end
        ([5, 20, 80, 320], [2.0, 0.5, 2.0, 0.5], 160.0),  # the last of several
        ([5, 20, 80], [0.5, 2.0, 0.5], 40.0),
    ]
    for depths, ratios, expected in cases:
        assert break_even_depth(depths, ratios) == pytest.approx(expected), (depths, ratios)


def test_ratios_are_taken_sample_by_sample() -> None:
    rows = cells(vmap=[20.0, 30.0], maml=[10.0, 60.0])
    long = long_of(rows)
    long["samples"] = [[20.0, 40.0, 30.0], [10.0, 10.0, 10.0], [30.0] * 3, [60.0, 30.0, 20.0]]
    found = over_exact(long, rows, rows).set_index(["estimator", "depth"])
    assert found.loc[(VMAP, 5), "over_exact"] == 3
    low, high = (found.loc[(VMAP, 5), f"over_exact_{end}"] for end in ("low", "high"))
    assert (low, high) == (2.5, 3.5)
    assert found.loc[(VMAP, 20), "over_exact"] == 1
    assert found.loc[("maml", 20), "over_exact"] == 1


def test_only_like_is_compared_with_like() -> None:
    for column in ("version", "task", "model", "device", "rest", "trained", "depth"):
        rows = cells((5,), vmap=[20.0], maml=[10.0])
        other: Any = 7 if column in ("trained", "depth") else "another"
        rows.loc[rows["estimator"] == "maml", column] = other
        assert set(compared(rows)["estimator"]) == {"maml"}, column
        assert break_evens(compared(rows)).empty
    # With options MAML is no exact unrolled one.
    rows = cells((5,), vmap=[20.0], maml=[10.0])
    rows["estimator"] = rows["estimator"].replace("maml", "maml(compiled=True)")
    assert compared(rows).empty
    assert break_even_table(break_evens(compared(rows))).empty


def test_times_of_two_runs_are_not_compared() -> None:
    rows = cells((5, 20), vmap=[20.0, 5.0], maml=[10.0, 10.0])
    long, newer = long_of(rows), (rows["estimator"] == "maml") & (rows["depth"] == 20)
    rows.loc[newer, "run"] = "newer"
    later = long_of(rows[newer].assign(time_ratio=40.0))
    found = over_exact(pd.concat([long, later]), rows, rows).set_index(["estimator", "depth"])
    assert found.loc[(VMAP, 20), "over_exact"] == pytest.approx(0.5)  # by exact MAML of its own run
    alone = over_exact(pd.concat([long[~newer.to_numpy()], later]), rows, rows)
    assert set(alone.loc[alone["estimator"] == VMAP, "depth"]) == {5}


def test_table_has_depth_interval_and_least_ratio() -> None:
    rows = cells(vmap=[20.0, 5.0], adjoint=[15.0, 13.0], maml=[10.0, 10.0])
    table = break_even_table(break_evens(compared(rows))).set_index("estimator")
    assert table["break-even depth"].to_dict() == {VMAP: "K=10", "adjoint": "none"}
    assert table["least time / maml"].to_dict() == {VMAP: 0.5, "adjoint": 1.3}
    assert table["at K"].to_dict() == {VMAP: 20, "adjoint": 20}
    rows = cells(vmap=[5.0, 5.0], adjoint=[5.0, 13.0], maml=[10.0, 10.0])
    table = break_even_table(break_evens(compared(rows)))
    assert list(table["break-even depth"]) == ["all measured", "none"]
    # Depths without exact MAML are left out.
    rows = cells((5, 20, 50), vmap=[20.0, 15.0, 5.0], maml=[10.0, 10.0, 10.0])
    rows = rows[(rows["estimator"] != "maml") | (rows["depth"] != 20)]
    (found,) = break_evens(compared(rows)).to_dict("records")
    assert found["depths"] == 2
    assert found["from_depth"] == pytest.approx(math.sqrt(5 * 50))
    # The interval is that of the quartiles of ratios.
    rows = cells(vmap=[20.0, 5.0], maml=[10.0, 10.0])
    long = long_of(rows)
    long["samples"] = [[8.0, 20.0, 50.0], [10.0] * 3, [2.0, 5.0, 12.5], [10.0] * 3]
    (found,) = break_evens(over_exact(long, rows, rows)).to_dict("records")
    low, middle, high = (found[f"from_depth{end}"] for end in ("_low", "", "_high"))
    assert middle == pytest.approx(10)
    assert 5 < low < middle < high < 20


def test_compiling_pays_from_the_calls_that_save_what_it_takes() -> None:
    names = ["maml", "maml(compiled=True)", "binom(order=2)", "binom(compiled=True, order=2)"]
    rows = make_rows(*names, "adjoint(compiled=True)", depths=(5,))
    rows = rows.assign(version="v", cell=[f"c{n}" for n in range(len(rows))])
    rows["compile_time"] = [math.nan, 12.0, math.nan, 9.0, 8.0]
    long = pd.DataFrame({"run": rows["run"], "cell": rows["cell"], "metric": "time"})
    long["value"] = [0.01, 0.005, 0.002, 0.002, 0.001]
    table = compiling_pays(long, rows).set_index("estimator")
    assert table["pays from"].to_dict() == {"maml": "2,400 calls", "binom(order=2)": "never"}
    first = table.loc[["maml"]].to_dict("records")[0]
    assert [first[name] for name in ("time (ms)", "compiled", "time to compile (s)")] == [10, 5, 12]
    apart = compiling_pays(long.assign(run=["r", "newer", "r", "r", "r"]), rows)
    assert [*apart["estimator"]] == ["binom(order=2)"]
    deeper = rows.assign(depth=rows["depth"].where(rows["estimator"] == "maml", 20))
    assert "maml" not in [*compiling_pays(long, deeper)["estimator"]]


def test_figure_has_a_panel_for_each_model_and_marks_break_evens() -> None:
    rows = cells(vmap=[20.0, 5.0], adjoint=[15.0, 13.0], maml=[10.0, 10.0])
    other = rows.assign(model="mlp-100-100", cell="other " + rows["cell"])
    table = compared(in_few_parts(pd.concat([rows, other], ignore_index=True)))
    chart = time_over_exact(table, break_evens(table))
    spec = chart.to_dict()
    json.dumps(spec, allow_nan=False)  # or a browser cannot read it
    assert spec["facet"]["sort"] == ["mlp-40-40", "mlp-100-100"]
    dots, rings = layers(chart, "point")
    assert rings["encoding"]["y"]["field"] == "break_even"
    assert dots["encoding"]["y"]["scale"]["type"] == "log"
    assert dots["encoding"]["x"]["scale"]["type"] == "log"
    drawn = data(chart)
    marked = [(row["model"], row["depth"]) for row in drawn if row["break_even"]]
    assert marked == [("mlp-100-100", 10), ("mlp-40-40", 10)]
    assert {row["options"] for row in drawn if row["place"]} == {"2, vmap"}
    assert sum(row["one"] == 1 for row in drawn) == 2  # a line at 1 in each panel
    assert "mlp" not in heading(chart)[1]


def test_figure_without_a_break_even() -> None:
    table = compared(cells(maml=[10.0, 10.0]))
    drawn = data(time_over_exact(table, break_evens(table)))
    assert [row["over_exact"] for row in drawn] == [1, 1]
    assert not any(row.get("break_even") for row in drawn)
    table = compared(cells((5,), vmap=[20.0]))
    assert "Exact MAML was not timed" in str(time_over_exact(table, break_evens(table)).to_dict())


def test_times_stand_over_serial_depth_with_their_options() -> None:
    rows = cells((5,), vmap=[20.0], adjoint=[21.0], maml=[10.0]).assign(serial_depth=[2, 5, 5])
    chart = time_against_serial_depth(rows)
    assert [row["serial_depth"] for row in data(chart)] == [2, 5, 5]
    (names,) = layers(chart, "text")
    assert names["encoding"]["text"]["field"] == "options"
    assert [row["options"] for row in data(chart, "text")] == ["2, vmap"]


def test_options_are_written_in_short() -> None:
    for estimator, expected in {
        "maml": "",
        "binom(order=2)": "2",
        "binom(batching='vmap', compiled=True, order=2)": "2, compiled, vmap",
        "binom(batching='vmap', engine='func', order=2)": "2, vmap, func",
        "maml(checkpoint='sqrt')": "sqrt",
        "who(ever": "",
    }.items():
        assert options_text(estimator) == expected
