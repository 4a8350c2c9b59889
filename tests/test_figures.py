"""Tables and figures: the right cells, with units, told apart where they must be."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.store.table import load_sound
from reports.figures.bias import bias_against_order
from reports.figures.cost import memory_against_depth, time_against_depth
from reports.figures.style import PALETTE, look
from reports.figures.tradeoffs import bias_against_memory, bias_against_time
from reports.tables import cells as tables
from reports.tables import text
from tests.support.stores import BIASES, COMMITS, NOTE, write_run, write_store

AT_DEPTH = (bias_against_time, bias_against_memory, bias_against_order)
OVER_DEPTH = (time_against_depth, memory_against_depth)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return tables.cells(load_sound(write_store(tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def rows(table: pd.DataFrame) -> pd.DataFrame:
    return next(part for part in tables.sections(table) if part["task"].iloc[0] == "sinusoid")


@pytest.fixture(scope="module")
def here(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["depth"] == 5]


def points(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the data behind the points of a figure."""
    layer = next(one for one in spec["layer"] if one["mark"]["type"] == "point")
    data = layer.get("data") or spec["data"]
    found: list[dict[str, Any]] = spec["datasets"][data["name"]]
    return found


def titles(spec: dict[str, Any]) -> tuple[str, str]:
    layer = next(one for one in spec["layer"] if one["mark"]["type"] == "point")
    return layer["encoding"]["x"]["title"], layer["encoding"]["y"]["title"]


def test_newest_version_is_first_and_says_what_it_is(table: pd.DataFrame) -> None:
    first, second = table["version_label"].drop_duplicates()
    assert first.startswith("bbbbbbbb (uncommitted changes), 20")
    assert second.startswith("aaaaaaaa, 20")
    assert first.endswith(" UTC, here")
    assert set(tables.latest(table)["commit"]) == {COMMITS[1]}


def test_later_run_replaces_cells_of_the_same_commit_alone(tmp_path: Path) -> None:
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.4, "reptile": 3.0})
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.8})
    write_run(tmp_path, COMMITS[0], {"fomaml": 0.1}, machine="elsewhere")
    cells = tables.cells(load_sound(tmp_path))
    assert cells.groupby("version").ngroups == 2
    one = cells[
        (cells["machine"] == "here") & (cells["depth"] == 5) & (cells["task"] == "sinusoid")
    ]
    bias = one.set_index("estimator")["bias"]
    assert bias["fomaml"] == pytest.approx(1.0)  # the mean of 0.8 and 1.2
    assert bias["reptile"] == pytest.approx(3.75)
    # The newest commit has run on two machines: two sections, never one.
    assert {part["machine"].nunique() for part in tables.sections(tables.latest(cells))} == {1}


def test_machines_of_one_name_stay_apart(tmp_path: Path) -> None:
    for machine in ("0123", "4567"):
        write_run(tmp_path, COMMITS[0], {"fomaml": 0.4}, fingerprint=machine)
    assert tables.cells(load_sound(tmp_path))["version"].nunique() == 2


def test_a_cell_keeps_what_was_measured_before_it_failed(here: pd.DataFrame) -> None:
    late = here.set_index("estimator").loc["imaml(lam=8.0)"]
    assert (late["outcome"], late["notes"]) == ("timeout", NOTE)
    assert late["bias"] == pytest.approx(0.55)
    assert pd.isna(late["time"])
    shown = text.summary(here).set_index("estimator")
    assert shown.loc["imaml(lam=8.0)", "notes"] == NOTE
    assert text.disturbed(here) == f"1 of {len(here)} timings were disturbed, such as: {NOTE}."
    assert text.disturbed(here[here["estimator"] == "fomaml"]) == ""


def test_runs_without_a_commit_stay_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "", {"fomaml": 0.4})
    write_run(tmp_path, "", {"fomaml": 0.8})
    assert tables.cells(load_sound(tmp_path))["version"].nunique() == 2


def test_numbers_are_in_the_units_that_are_shown(here: pd.DataFrame) -> None:
    cell = here.set_index("estimator").loc["fomaml"]
    assert cell["peak_memory"] == pytest.approx(5 * 4096 / 2**20)
    assert cell["time"] == pytest.approx(5.5)
    assert cell["flops"] == pytest.approx(10.0)
    assert pd.isna(cell["peak_memory_low"])
    assert cell["time_low"] < cell["time"] < cell["time_high"]


def test_orders_span_from_first_order_to_exact(here: pd.DataFrame) -> None:
    lines = tables.by_order(here).groupby("line")["order"].agg(sorted)
    assert lines.to_dict() == {"binom": [0, 1, 3, 5], "truncated": [0, 1, 3, 5]}


@pytest.mark.parametrize("figure", AT_DEPTH[:2])
def test_bias_figures_hold_every_measured_cell(figure: Any, here: pd.DataFrame) -> None:
    spec = figure(here).to_dict()
    orders = {f"{name}(order={order})" for name in ("binom", "truncated") for order in (1, 3)}
    assert {point["estimator"] for point in points(spec)} == set(BIASES) | orders
    assert titles(spec)[1].startswith("bias (relative error)")


@pytest.mark.parametrize("figure", OVER_DEPTH)
def test_depth_figures_hold_all_depths(figure: Any, rows: pd.DataFrame) -> None:
    assert {point["depth"] for point in points(figure(rows).to_dict())} == {2, 5}


def test_axes_carry_units(here: pd.DataFrame, rows: pd.DataFrame) -> None:
    assert titles(bias_against_time(here).to_dict())[0] == "time / inner gradient (×)"
    assert titles(bias_against_memory(here).to_dict())[0] == "peak memory (MiB)"
    assert titles(bias_against_order(here).to_dict())[0] == "order L"
    assert titles(time_against_depth(rows).to_dict()) == (
        "depth K (inner steps)",
        "time (ms)",
    )


def test_exact_estimators_stand_on_the_bottom_line(here: pd.DataFrame) -> None:
    drawn = {p["estimator"]: p for p in points(bias_against_time(here).to_dict())}
    assert drawn["maml"]["bias_drawn"] == drawn["adjoint"]["bias_drawn"]
    assert drawn["maml"]["bias_drawn"] < min(
        point["bias_drawn"] for name, point in drawn.items() if name not in ("maml", "adjoint")
    )
    assert drawn["maml"]["bias"] < 1e-15  # hovering tells the number itself


def test_intervals_only_where_there_are_some(here: pd.DataFrame) -> None:
    def bars(figure: Any) -> list[str]:
        layers = figure(here).to_dict()["layer"]
        return [
            next(axis for axis in ("x2", "y2") if axis in one["encoding"])
            for one in layers
            if one["mark"]["type"] == "rule"
        ]

    assert bars(bias_against_time) == ["y2", "x2"]
    assert bars(bias_against_memory) == ["y2"]


@pytest.mark.parametrize("figure", AT_DEPTH + OVER_DEPTH)
def test_nothing_measured_is_said(figure: Any, rows: pd.DataFrame) -> None:
    bad = rows[rows["estimator"] == "imaml(lam=7.0)"]
    assert "No cell here" in str(figure(bad).to_dict())


def test_style_is_that_of_the_name_alone(here: pd.DataFrame) -> None:
    assert len({look(name) for name in PALETTE}) == len(PALETTE)
    assert look("someone:new") == look("someone:new")
    for part in (here, here[here["family"] == "binom"]):
        spec = bias_against_time(part).to_dict()
        scale = spec["layer"][0]["encoding"]["color"]["scale"]
        colours = dict(zip(scale["domain"], scale["range"], strict=True))
        assert colours["binom"] == PALETTE["binom"][0]


def test_a_thicket_of_orders_is_thinned(here: pd.DataFrame) -> None:
    binom = here[here["estimator"] == "binom(order=1)"]
    many = pd.concat(
        binom.assign(order=order, estimator=f"binom(order={order})") for order in range(1, 10)
    )
    many["order"] = many["order"].astype("Int64")
    drawn = points(time_against_depth(many).to_dict())
    assert {point["order"] for point in drawn} == {1, 2, 4, 8}


def test_a_name_that_cannot_be_read_is_its_own_family() -> None:
    assert tables.family_and_order("what(ever") == ("what(ever", None)
