"""Tables and figures of a store: the right cells, with units, told apart where they must be."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.matrix.metrics import METRICS
from harness.store.table import load_sound
from reports.figures import bias, cost, parallel, tradeoffs
from reports.figures.samples import samples_in_order
from reports.figures.style import PALETTE, Chart, look
from reports.tables import cells as tables
from reports.tables import text
from tests.support.figure_rows import data, heading, layers, make_rows
from tests.support.stores import BIASES, COMMITS, NOTE, write_run, write_store

OF_CELLS = (
    *(tradeoffs.bias_against_time, tradeoffs.bias_against_memory, bias.bias_against_order),
    *(bias.bias_against_depth, bias.bias_along_training, bias.cosine),
    *(cost.time_against_depth, cost.memory_against_depth, cost.work_against_depth),
    *(cost.cost_against_model, cost.work_and_serial_depth, cost.phases),
    parallel.time_against_serial_depth,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return tables.cells(load_sound(write_store(tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def rows(table: pd.DataFrame) -> pd.DataFrame:
    return next(part for part in tables.sections(table) if part["task"].iloc[0] == "sinusoid")


@pytest.fixture(scope="module")
def here(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["depth"] == 5]


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
    means = one.set_index("estimator")["bias"]
    assert means["fomaml"] == pytest.approx(1.0)  # the mean of 0.8 and 1.2
    assert means["reptile"] == pytest.approx(3.75)
    # The newest commit has run on two machines: two sections, never one.
    assert {part["machine"].nunique() for part in tables.sections(tables.latest(cells))} == {1}


def test_machines_of_one_name_and_runs_without_a_commit_stay_apart(tmp_path: Path) -> None:
    for place, machine in enumerate(("0123", "4567")):
        write_run(tmp_path / "machines", COMMITS[0], {"fomaml": 0.4}, fingerprint=machine)
        write_run(tmp_path / "commits", "", {"fomaml": 0.4 + place})
    for name in ("machines", "commits"):
        assert tables.cells(load_sound(tmp_path / name))["version"].nunique() == 2, name


def test_numbers_are_in_shown_units_and_stay_where_a_cell_fails_later(here: pd.DataFrame) -> None:
    by_name = here.set_index("estimator")
    cell = by_name.loc["fomaml"]
    assert cell["peak_memory"] == pytest.approx(5 * 4096 / 2**20)
    assert (cell["time"], cell["flops"]) == (pytest.approx(5.5), pytest.approx(10.0))
    assert pd.isna(cell["peak_memory_low"])
    assert cell["time_low"] < cell["time"] < cell["time_high"]
    late = by_name.loc["imaml(lam=8.0)"]
    assert (late["outcome"], late["notes"]) == ("timeout", NOTE)
    assert late["bias"] == pytest.approx(0.55)
    assert pd.isna(late["time"])
    assert text.summary(here).set_index("estimator").loc["imaml(lam=8.0)", "notes"] == NOTE
    (disturbed,) = text.notes(here)
    assert NOTE in disturbed
    assert disturbed.startswith(f"1 of {len(here)} ")
    assert not [*text.notes(here[here["estimator"] == "fomaml"])]


def test_orders_span_from_first_order_to_exact(here: pd.DataFrame) -> None:
    lines = tables.by_order(here).groupby("line")["order"].agg(sorted)
    assert lines.to_dict() == {"binom": [0, 1, 3, 5], "truncated": [0, 1, 3, 5]}
    assert tables.family_and_order("what(ever") == ("what(ever", None)  # which nobody can parse


def test_any_option_that_counts_is_an_order() -> None:
    for spec, order, line in (
        ("krylov(engine='func', products=4)", 4, "krylov(engine='func')"),
        ("krylov(order=2, segments=8)", 2, "krylov(segments=8)"),
        ("neumann(lam=2.0, terms=5)", 5, "neumann(lam=2.0)"),
        ("roulette(rate=0.5)", None, "roulette(rate=0.5)"),
        ("other(order='none')", None, "other(order='none')"),
    ):
        assert tables.family_and_order(spec) == (spec.partition("(")[0], order)
        assert tables.without_order(spec) == line
    rows = make_rows("truncated(order=1)", "krylov(products=2)", time_ratio=2.0, bias=0.1)
    assert "order L or products" in heading(tradeoffs.bias_against_time(rows))[1]
    assert "order" not in heading(tradeoffs.bias_against_time(rows[1:]))[1]


def test_figures_hold_every_measured_cell(rows: pd.DataFrame, here: pd.DataFrame) -> None:
    orders = {f"{name}(order={order})" for name in ("binom", "truncated") for order in (1, 3)}
    error, depth = "bias (relative error); exact: below 1e-12", "depth K (inner steps)"
    for figure, part, x, y, bars in (
        (tradeoffs.bias_against_time, here, "time / inner gradient (×)", error, ["y2", "x2"]),
        (tradeoffs.bias_against_memory, here, "peak memory (MiB)", error, ["y2"]),
        (bias.bias_against_order, here, "order L", error, ["y2"]),
        (bias.bias_against_depth, rows, depth, error, ["y2"]),
        (cost.time_against_depth, rows, depth, "time (ms)", ["y2"]),
        (cost.memory_against_depth, rows, depth, "peak memory (MiB)", []),
    ):
        chart = figure(part)
        (dots,) = layers(chart, "point")
        assert [dots["encoding"][channel]["title"] for channel in "xy"] == [x, y]
        ends = [{"x2", "y2"} & {*one["encoding"]} for one in layers(chart, "rule")]
        assert ends == [{end} for end in bars], figure
        if x == depth:
            assert dots["encoding"]["x"]["axis"]["values"] == [2, 5]
        drawn = data(chart)
        assert {point["depth"] for point in drawn} == set(part["depth"]), figure
        if figure in (tradeoffs.bias_against_time, tradeoffs.bias_against_memory):
            assert {point["estimator"] for point in drawn} == set(BIASES) | orders
            lowest = {p["estimator"]: p["bias_drawn"] for p in drawn}
            exact = {lowest.pop("maml"), lowest.pop("adjoint")}  # on the bottom line
            assert len(exact) == 1
            assert max(exact) < min(lowest.values())
            # Hovering tells the number itself.
            assert next(p for p in drawn if p["estimator"] == "maml")["bias"] < 1e-15


def test_every_figure_keeps_to_the_schema() -> None:
    """Others do so in their own tests, which draw whole figures."""
    numbers = {f"{name}{end}": [3.0, 2.0, 1.0] for name in METRICS for end in ("", "_low", "_high")}
    names = ("fomaml", "binom(order=1)", "maml")
    rows = make_rows(*names, depths=(1, 5), trained=(0, 100))
    rows = rows.assign(**{name: values * 4 for name, values in numbers.items()}).copy()
    rows["spread"] = 0.0  # others are in test_figures_draws.py
    figures: list[Callable[[pd.DataFrame], Chart]] = [*OF_CELLS]
    figures += [partial(tradeoffs.tradeoff, x="hvps", y="bias", by=by) for by in ("depth", "model")]
    for figure in figures:
        assert "No cell here" not in str(figure(rows).to_dict()), figure
    one = rows[["estimator", "family", "order", "task", "model", "depth"]]
    bias.bias_by_task(one.assign(sample=0, value=1.0)).to_dict()
    samples = pd.DataFrame({"metric": ["time (ms)"] * 2, "sample": [1, 2], "value": [5.0, 6.0]})
    samples_in_order(samples).to_dict()


def test_nothing_measured_is_said(rows: pd.DataFrame) -> None:
    unmeasured = make_rows("fomaml", "binom(order=1)", "maml")
    failed = rows[rows["estimator"] == "imaml(lam=7.0)"]
    for figure in OF_CELLS:
        for none in (unmeasured, unmeasured.head(0), failed):
            spec = figure(none).to_dict()
            assert "No cell here" in str(spec), figure
            assert spec["width"] == "container"


def test_style_is_that_of_the_name_alone(here: pd.DataFrame) -> None:
    assert len({look(name) for name in PALETTE}) == len(PALETTE)
    assert look("someone:new") == look("someone:new")
    for part in (here, here[here["family"] == "binom"]):
        (dots,) = layers(tradeoffs.bias_against_time(part), "point")
        scale = dots["encoding"]["color"]["scale"]
        assert dict(zip(scale["domain"], scale["range"], strict=True))["binom"] == look("binom")[0]


def test_a_thicket_of_orders_is_thinned(here: pd.DataFrame) -> None:
    binom = here[here["estimator"] == "binom(order=1)"]
    many = pd.concat(
        binom.assign(order=order, estimator=f"binom(order={order})") for order in range(1, 10)
    )
    many["order"] = many["order"].astype("Int64")
    assert {point["order"] for point in data(cost.time_against_depth(many))} == {1, 2, 4, 8}


def test_six_thousand_samples_have_room() -> None:
    values: dict[str, Any] = {"sample": range(6000), "value": np.geomspace(0.1, 1, 6000)}
    one = make_rows("fomaml")[["estimator", "family", "order", "task", "model", "depth"]]
    drawn = data(bias.bias_by_task(one.merge(pd.DataFrame(values), how="cross")))
    assert len(drawn) == 6000
