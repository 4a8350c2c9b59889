"""Random estimators beside others: tables, ranking, and what is left of spread at some cost."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import vl_convert
from rich.console import Console

from harness.cell import Cell
from harness.matrix.outcome import Outcome, Status
from harness.store.journal import Journal
from harness.store.summary import print_summary
from harness.store.table import load_sound
from reports.figures import tradeoffs
from reports.figures.bias import bias_against_depth
from reports.figures.draws import bias_against_spread
from reports.tables import cells as tables
from reports.tables.advice import advise, verdict
from reports.tables.findings import findings
from reports.tables.text import as_text, ranking, summary
from tests.support.figure_rows import data, heading, layers
from tests.support.stores import environment, journal_result

RANDOM = {
    "roulette(rate=0.8)": {
        **{"bias": [0.0, 0.1], "spread": [0.8, 0.6], "rmse": [0.8, 0.6]},
        **{"bias_limit": [0.3], "bias_chance": [0.4]},
    },
    "drawn-wrong": {
        **{"bias": [0.5, 0.5], "spread": [2.0, 2.0], "rmse": [2.1, 2.1]},
        **{"bias_limit": [0.7], "bias_chance": [0.001]},
    },
}
OTHERS = {"maml": 0.0, "fomaml": 0.9, "truncated(order=2)": 0.3, "binom(order=1)": 0.6}
COSTS = {"fomaml": 6.0, "truncated(order=2)": 8.0, "maml": 16.0, "binom(order=1)": 20.0}
COSTS |= {"roulette(rate=0.8)": 10.0, "drawn-wrong": 7.0}


def write_store(folder: Path, *, random: bool = True) -> Path:
    journal = Journal.create(folder)
    journal.start(environment("a" * 40), cells=6)
    scored = {name: {"bias": [each, each]} for name, each in OTHERS.items()}
    for name, samples in (scored | (RANDOM if random else {})).items():
        of_maml = Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=5)
        cell = replace(of_maml, estimator=name)
        measured = samples | {"peak_memory": [1e6], "hvps": [2.5], "serial_depth": [2.5]}
        journal_result(journal, "score", cell, Outcome(Status.OK), measured)
        times = {"time": [1.0] * 6, "time_ratio": [COSTS[name]] * 6}
        journal_result(journal, "time", cell, Outcome(Status.OK), times)
    journal.end()
    return folder


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return load_sound(write_store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def rows(long: pd.DataFrame) -> pd.DataFrame:
    return tables.cells(long)


def test_others_stand_beside_random_ones_without_spread(rows: pd.DataFrame, tmp_path: Path) -> None:
    by_name = rows.set_index("estimator")
    assert by_name.loc[[*OTHERS], "spread"].eq(0).all()
    assert by_name.loc[[*OTHERS], "rmse"].to_dict() == OTHERS
    assert by_name.loc["roulette(rate=0.8)", "rmse"] == pytest.approx(0.7)
    assert set(rows.loc[tables.is_random(rows), "estimator"]) == set(RANDOM)
    without = tables.cells(load_sound(write_store(tmp_path, random=False)))
    assert without[["rmse", "spread"]].isna().all(axis=None)
    assert "spread" not in " ".join(map(str, summary(without)))


def test_random_ones_are_ranked_by_what_one_estimate_is_off(rows: pd.DataFrame) -> None:
    advice = advise(rows)
    order = ["maml", "truncated(order=2)", "binom(order=1)", "roulette(rate=0.8)"]
    assert advice["estimator"].to_list() == [*order, "fomaml", "drawn-wrong"]
    notes = advice.set_index("estimator")["note"]
    assert "not seen, below 0.3" in notes["roulette(rate=0.8)"]
    assert "bias 0.5, below 0.7" in notes["drawn-wrong"]
    assert notes["maml"] == ""
    assert as_text(ranking(advice))[3][2] == "0.7"
    dear = advise(rows[tables.is_random(rows)], time=12.0)
    assert "error of one estimate 0.7" in verdict(dear)
    assert not any("roulette" in line for line in findings(rows))


def test_tradeoffs_compare_single_estimates(rows: pd.DataFrame) -> None:
    for figure in (tradeoffs.bias_against_time, tradeoffs.bias_against_memory):
        drawn = {point["estimator"]: point for point in data(figure(rows))}
        assert drawn["roulette(rate=0.8)"]["rmse_drawn"] == pytest.approx(0.7)
        assert not drawn["drawn-wrong"]["front"]
        assert "estimate" in heading(figure(rows))[0]
        assert "Bias" in heading(figure(rows[~tables.is_random(rows)]))[0]
    lines = {point["estimator"] for point in data(bias_against_depth(rows))}
    assert lines == set(OTHERS)


def test_what_is_left_of_spread_falls_with_cost_and_bias_does_not(rows: pd.DataFrame) -> None:
    chart = bias_against_spread(rows)
    drawn = pd.DataFrame(data(chart))
    of = {name: part.sort_values("estimates") for name, part in drawn.groupby("estimator")}
    falling = of["roulette(rate=0.8)"]
    assert falling["estimates"].to_list() == [1, 2, 5, 10, 20, 50, 100]
    for _, mean in falling.iterrows():
        assert mean["rmse"] == pytest.approx(0.7 / math.sqrt(mean["estimates"]))
        assert mean["time_ratio"] == pytest.approx(10 * mean["estimates"])
    wrong = of["drawn-wrong"]["rmse"].to_list()
    assert wrong[0] == pytest.approx(2.1)
    assert wrong[-1] == pytest.approx(math.sqrt(0.25 + (2.1**2 - 0.25) / 100))
    assert all(len(of[name]) == 1 for name in OTHERS)
    front = {name for name in OTHERS if of[name]["front"].iloc[0]}
    assert front == {"fomaml", "truncated(order=2)", "maml"}
    labelled = layers(chart, "text")
    assert len(labelled) == 1
    spec = chart.to_dict()
    assert b"<svg" in vl_convert.vegalite_to_svg(spec | {"width": 600}).encode()


def test_without_random_estimators_there_is_no_such_figure(rows: pd.DataFrame) -> None:
    for part in (rows[~tables.is_random(rows)], rows.assign(time_ratio=math.nan)):
        assert "No random estimator" in str(bias_against_spread(part).to_dict())


def test_a_run_ends_with_bias_and_error_of_one_estimate(
    long: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(long, Console(width=120))
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("roulette(rate=0.8)"))
    assert "0 (<0.3)" in lines[at]
    assert lines[at + 1].split()[:3] == ["one", "estimate", "0.7"]
    wrong = next(line for line in lines if line.startswith("drawn-wrong"))
    assert "0.5 ±0" in wrong
