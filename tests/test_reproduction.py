"""Reproduced figures and tables: what they are made from, what they say, how they are written."""

import csv
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from estimators.base.errors import OptionError, UserError
from harness.commands import reproduce as measuring
from harness.commands.reproduce import EXPERIMENTS, SCALES, Scale, Sources, needed
from harness.matrix.plan import Axes
from harness.store.table import load_run
from harness.training.config import TrainingConfig
from reports.commands import reproduce
from reports.reproduction import PIECES, paper, pieces
from reports.reproduction.piece import Measurements, Piece
from reports.reproduction.write import write
from reports.tables.snapshot import read
from tests.support import reproduced
from tests.support.figure_rows import heading
from tests.support.invocation import invoke
from tests.support.reproduced import ACCURACY

NAMES = tuple(EXPERIMENTS)


def made_of(store: Path, scale: Scale = "quick") -> list[Piece]:
    return pieces(Measurements(read(store)), scale)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced")
    reproduced.write_all(folder)
    return folder


@pytest.fixture(scope="module")
def made(store: Path) -> dict[str, Piece]:
    return {piece.name: piece for piece in made_of(store)}


def test_experiments_measure_what_their_figures_show() -> None:
    assert list(PIECES) == list(EXPERIMENTS)
    for scale in SCALES:
        for name in EXPERIMENTS:
            sources = EXPERIMENTS[name].get(scale)
            assert name == "fig2" or not sources or sources.planned() or sources.configs(), name
        trained = {one.cell.estimator for one in EXPERIMENTS["fig5"][scale].configs()}
        assert {"maml", "fomaml", "truncated(order=2)", "binom(order=2)"} <= trained
        assert any(name.startswith("imaml") for name in trained)
    # What several need is measured once.
    assert len(needed(NAMES, "quick")) == 4
    assert needed(["fig2"], "quick") == []
    assert needed(["table1", "fig5"], "paper") == [Sources(trainings="paper")]
    for config in EXPERIMENTS["table1"]["paper"].configs():  # the paper's hyperparameters
        assert config == TrainingConfig(config.cell, bias_every=2000)
        assert (config.steps, config.cell.depth, config.test_depth) == (20_000, 5, 10)
        assert config.cell.model == "conv4-32"


def shown(store: Path) -> dict[str, Piece]:
    """All pieces of a store, with their figures drawn."""
    found = {piece.name: piece for piece in made_of(store)}
    for piece in found.values():
        for chart in piece.charts:
            chart().to_dict(validate=False)
        assert not [line for line in piece.notes if "nan" in line], piece.notes
    return found


def without(estimator: str) -> reproduced.Wanted:
    return lambda cell: cell.estimator != estimator


def only(estimator: str) -> reproduced.Wanted:
    return lambda cell: cell.estimator == estimator


@pytest.mark.slow
def test_any_estimator_may_be_missing_or_alone(tmp_path: Path) -> None:
    for name, estimator in (
        *(("fig3a", "truncated(order=4)"), ("fig3a", "binom(order=1)"), ("fig3a", "maml")),
        *(("fig4", "maml"), ("fig4", "fomaml"), ("fig4", "binom(order=2)")),
    ):
        others, alone = (tmp_path / f"{name} {estimator} {which}" for which in ("others", "alone"))
        reproduced.write_cells(others, name, without(estimator))
        notes = [line for piece in shown(others).values() for line in piece.notes]
        assert [line for line in notes if line.startswith("Missing: ")], (name, estimator)
        reproduced.write_cells(alone, name, only(estimator))
        shown(alone)


def test_any_checkpoint_may_be_missing(tmp_path: Path) -> None:
    reproduced.write_cells(
        tmp_path, "fig3a", lambda cell: cell.trained > 0 and cell.estimator != "binom(order=2)"
    )
    found = shown(tmp_path)
    assert found["fig3a"].agreement["steps"].min() == 100
    row = found["fig3b"].agreement.iloc[0]  # after training, where binom is worse
    assert (row["beside"], row["lower at L"], row["of L"]) == ("truncated", "none", "1, 3, 4")


@pytest.mark.slow
def test_trainings_may_have_come_to_any_event(tmp_path: Path) -> None:
    for events in range(8):
        store = tmp_path / str(events)
        reproduced.write_trainings(store, lambda cell: cell.seed < 1, events=events)
        shown(store)


def test_one_training_alone_or_all_but_it(tmp_path: Path) -> None:
    for estimator in ("maml", "hybrid(order=1, window=4)"):
        alone, others = tmp_path / f"{estimator} alone", tmp_path / f"{estimator} others"
        reproduced.write_trainings(alone, only(estimator))
        shown(alone)
        wanted = without(estimator)
        reproduced.write_trainings(others, lambda cell: cell.seed < 2 and wanted(cell))  # ruff: ignore[function-uses-loop-variable]
        assert "44 of 70 trainings" in shown(others)["table1"].notes[-1]


def test_the_newest_trainings_count_whichever_validated_best_when(tmp_path: Path) -> None:
    reproduced.write_trainings(tmp_path, lambda cell: cell.seed == 1)  # best at the last step
    reproduced.write_trainings(
        tmp_path, lambda cell: cell.seed == 1 and cell.estimator != "maml", better=0.1
    )
    reproduced.write_trainings(
        tmp_path, lambda cell: cell.estimator == "maml" and cell.seed == 1, better=0.1
    )
    rows = shown(tmp_path)["table1"].data.set_index("estimator")
    assert rows.loc["maml", "value"] == pytest.approx(90.2)
    assert rows.loc["fomaml", "value_less"] == pytest.approx(-2.0)


def test_the_commit_that_has_most_of_it_is_shown(tmp_path: Path) -> None:
    reproduced.write_cells(tmp_path, "fig4")
    reproduced.write_cells(tmp_path, "fig4", lambda cell: cell.estimator == "maml", commit="f" * 40)
    piece = shown(tmp_path)["fig4"]
    assert len(piece.table) == 12
    assert [line for line in piece.notes if line.startswith("Measured at 01234567")]


def test_nothing_is_made_of_what_is_not_there(tmp_path: Path) -> None:
    assert [piece.name for piece in made_of(tmp_path)] == ["fig2"]  # of theory alone
    with pytest.raises(UserError, match="fig3a, table1"):
        write(tmp_path, ["fig3a", "table1"], "quick", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    reproduced.write_trainings(tmp_path)
    found = made_of(tmp_path)
    assert [piece.name for piece in found] == ["fig2", "fig5", "table1", "table2"]
    assert [piece.name for piece in made_of(tmp_path, "paper")] == ["fig2"]


def test_figures_keep_to_the_schema(made: dict[str, Piece]) -> None:
    for piece in made.values():
        piece.charts[0]().to_dict()


def test_bounds_are_those_of_theory(made: dict[str, Piece]) -> None:
    data = made["fig2"].data
    rows = data[(data["assumption"] == "convex") & np.isclose(data["x"], 0.5)]
    found = {(row.estimator, row.order): row.bound for row in rows.itertuples()}
    for order in range(6):
        # Eq. 12c over the same at L=0: C(K, L+1) x^(L+1) / (K x); truncated: (K-L) x / (K x).
        assert found["binom", order] == pytest.approx(math.comb(5, order + 1) * 0.5**order / 5)
        assert found["truncated", order] == pytest.approx((5 - order) / 5)
    agreement = made["fig2"].agreement.set_index(["assumption", "alpha H"])
    assert agreement.loc[("convex", 0.9), "lower at L"] == "4"


def test_errors_beside_those_of_the_paper(
    made: dict[str, Piece], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = made["fig3a"]
    rows = piece.table.set_index("estimator")
    assert rows.loc["binom(order=4)", "median, 0 steps"] == pytest.approx(1e-4)
    assert rows.loc["binom(order=1)", "median, 800 steps"] == pytest.approx(10)
    assert rows.loc["truncated(order=4)", "paper, about"] == pytest.approx(0.1)
    assert set(piece.data["mini_batch"]) == set(range(1, 26))
    verdicts = piece.agreement.set_index(["steps", "median error of"])["verdict"]
    assert [*verdicts[0]] == ["agrees"] * 3
    monkeypatch.setattr(reproduced, "_error", lambda family, order, trained: 0.1)
    reproduced.write_cells(tmp_path, "fig3a")
    other = {piece.name: piece for piece in made_of(tmp_path)}["fig3a"].agreement
    (row,) = other[other["median error of"] == "binom(order=4)"].to_dict("records")
    assert (row["paper, about"], row["verdict"]) == (1e-4, "differs")
    assert row["here"] == pytest.approx(0.1)


def test_what_training_does_to_the_error(made: dict[str, Piece]) -> None:
    piece = made["fig3b"]
    agreement = piece.agreement.set_index(["steps", "line", "beside"])
    for other in ("truncated", "fomaml"):
        for steps, lower in ((0, "1, 2, 3, 4"), (800, "none")):
            assert agreement.loc[(steps, "binom", other), "lower at L"] == lower, (other, steps)
    assert agreement.loc[(800, "binom", "fomaml"), "largest ratio"] == pytest.approx(10)
    assert piece.notes[-1].startswith("Measured at 01234567")
    assert len(piece.table) == 4 * 4
    assert list(piece.table.columns[-6:]) == [f"L={order}" for order in range(6)]
    assert (piece.table["L=5"] == 0).all()


def test_costs_beside_exact_maml(made: dict[str, Piece]) -> None:
    rows = made["fig4"].data.set_index("estimator")
    assert rows.loc["binom(order=2)", "time_of_maml"] == pytest.approx(1.5)
    assert rows.loc["binom(order=2)", "memory_of_maml"] == pytest.approx(0.4)
    assert "not measured" in made["fig4"].notes[0]


def test_utilisation_where_the_driver_tells_it(tmp_path: Path) -> None:
    """A figure for each task on the GPU, and none of the CPU, which has no such thing."""
    found: dict[float | None, Piece] = {}
    for known in (None, 62.5):
        store = tmp_path / str(known)
        reproduced.write_cells(store, "fig4", scale="paper", utilisation=known)
        (found[known],) = (one for one in made_of(store, "paper") if one.name == "fig4")
    without, piece = found[None], found[62.5]
    titles = [heading(chart())[0] for chart in piece.charts]
    assert titles.count("GPU utilisation against order L") == 2
    assert len(titles) == 2 * (2 + 3) == len(without.charts) + 2
    rows = piece.data.set_index(["task", "device", "estimator"])["utilisation"]
    assert set(rows.xs("cuda:0", level="device")) == {62.5}
    assert rows.xs("cpu", level="device").isna().all()
    assert "GPU utilisation (%)" in piece.table
    assert any("is its Figure 4c" in line for line in piece.notes)
    assert "utilisation" not in without.data
    assert any("Figure 4c) is not measured" in line for line in without.notes)


def test_accuracies_beside_those_of_the_paper(made: dict[str, Piece]) -> None:
    table = made["table1"].table.set_index("estimator")
    estimators = {config.cell.estimator for config in EXPERIMENTS["table1"]["quick"].configs()}
    assert set(table.index) == estimators
    rows = table.to_dict("index")
    ends = [rows["maml"][name] for name in ("accuracy (%)", "from", "to")]
    assert ends == pytest.approx([80.3, 80.1, 80.5], abs=0.005)
    less = [rows["fomaml"][name] for name in ("less maml", "less, from", "less, to")]
    assert less == [-2.0] * 3
    assert rows["fomaml"]["paper: miniimagenet, 5way-1shot"] == pytest.approx(44.57)
    assert set(paper.ACCURACY) <= estimators
    agreement = made["table1"].agreement.set_index("estimator").loc["fomaml"]
    assert agreement["less maml (points)"] == pytest.approx(-2)
    assert agreement["paper, miniimagenet:5way-1shot"] == pytest.approx(-1.93)
    assert agreement["sign"] == "agrees"
    assert made["table1"].notes == ["Trained at 01234567 on here."]


def test_the_hybrid_and_its_bias(made: dict[str, Piece]) -> None:
    table = made["table2"].table.set_index("estimator")
    assert table.loc["hybrid(order=1, window=4)", "bias at the start"] == pytest.approx(1.1)
    assert table.loc["hybrid(order=1, window=4)", "bias at the end"] == pytest.approx(1.6)
    assert (table.loc[["fomaml", "hybrid(order=1, window=4)"], "verdict"] == "worse").all()
    assert len(table) == 6


def test_variance_over_horizons_beside_that_of_mixing(made: dict[str, Piece]) -> None:
    piece = made["one-step"]
    rows = {
        (row["compared"], row["outer gradient"], row["K"]): row
        for row in piece.agreement.to_dict("records")
    }
    grown = rows["variance of lvc / that at K=1", "drawn", 10]
    assert (grown["here"], grown["verdict"]) == (pytest.approx(100), "grows")
    mixed = "variance of lvc / that of lvc, mixed"
    assert rows[mixed, "drawn", 5]["here"] == pytest.approx(4)
    own = rows[f"{mixed}, own objective", "drawn", 5]
    assert (own["here"], own["paper, about"]) == (pytest.approx(16), paper.MIXING_CUTS)
    assert own["verdict"] == "saves more"
    own = rows[f"{mixed}, own objective", "exact", 5]
    assert own["here"] == pytest.approx(math.sqrt(2.5 * 3.0))  # of two seeds
    assert own["from"] < 3 < own["to"]
    assert own["verdict"] == "agrees"
    other = rows["variance of lvc / that of lvc, fomaml", "exact", 10]
    assert (other["here"], other["verdict"]) == (pytest.approx(100), "saves")
    # At depth 1 there is nothing to mix, and the others are compared at the longest horizon.
    assert {depth for what, _, depth in rows if what == mixed} == {2, 3, 5, 7, 10}
    assert {depth for what, _, depth in rows if "fomaml" in what} == {10}
    for depth in (3, 10):
        less = rows["return of lvc, mixed less that of lvc", "drawn", depth]
        assert (less["here"], less["verdict"]) == (pytest.approx(-0.01), "worse")
    table = piece.table.set_index(["what", "outer gradient", "estimator"])
    assert table.loc[("variance", "drawn", "lvc"), "K=10"] == pytest.approx(100)
    assert table.loc[("test return", "exact", "maml"), "K=3"] == pytest.approx(ACCURACY - 0.9995)
    assert ("variance, own objective", "drawn", "lvc") not in table.index
    assert "16 (16 to 16) with the outer gradient drawn: saves more" in piece.notes[0]


def test_horizons_without_what_they_are_compared_with(tmp_path: Path) -> None:
    reproduced.write_cells(tmp_path, "one-step", without("lvc"))
    reproduced.write_trainings(tmp_path, only("maml"), name="one-step")
    piece = shown(tmp_path)["one-step"]
    assert set(piece.agreement["outer gradient"]) == {"exact"}
    assert len(piece.charts) == 3
    assert "36 of 45 trainings" in piece.notes[-1]
    assert "one-step" not in {piece.name for piece in made_of(tmp_path, "paper")}


def test_all_is_written(store: Path, tmp_path: Path) -> None:
    page, written = write(store, NAMES, "quick", tmp_path / "out")
    assert {piece.name for piece in written} == {*NAMES}
    text = page.read_text(encoding="utf-8")
    for piece in written:
        rows = [*csv.DictReader((page.parent / f"{piece.name}.csv").read_text().splitlines())]
        assert len(rows) == len(piece.data)
        for number in range(1, len(piece.charts) + 1):
            file = page.parent / f"{piece.name}-{number}.svg"
            assert f"({file.name})" in text
            assert len([*ElementTree.parse(file).iter()]) > 50
    for each in (paper.BINOMIAL, paper.ONE_STEP):
        assert text.count(each.full) == 1
    for piece in written:
        its = paper.ONE_STEP if piece.name == "one-step" else paper.BINOMIAL
        assert f"## {piece.name}: {piece.title} ({its.short})\n" in text
    assert "metagrad reproduce all --scale quick" in text
    assert "01234567" in text
    assert not [file for file in page.parent.iterdir() if file.name.startswith(".")]


def test_wrong_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, word in (
        (("fig6",), "fig6"),
        (("table1", "--scale", "huge"), "huge"),
        (("table1", "--device", "cuda:99"), "cuda:99"),
        (("fig3a", "fig4", "--device", "cuda"), "fig3a, fig4"),
        (("fig3a", "one-step", "--scale", "paper"), "one-step"),
    ):
        with pytest.raises(OptionError, match=word):
            invoke(reproduce, *arguments)
        assert not [*tmp_path.iterdir()]


def test_what_is_there_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = Axes((("sinusoid", "mlp-40-40"),), (1,), ("fomaml", "maml"), num_tasks=2)
    monkeypatch.setattr("harness.matrix.plan.preset", lambda name: tiny)
    assert measuring.measure(Sources("tiny"), Path("results"), 1)
    (run,) = Path("results/runs").iterdir()
    assert set(load_run(run)["estimator"]) == {"fomaml", "maml"}
    assert measuring.measure(Sources("tiny"), Path("results"), 1)
    assert [*Path("results/runs").iterdir()] == [run]


def test_data_that_are_missing_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METAGRAD_DATA", raising=False)
    with pytest.raises(UserError, match="miniimagenet"):
        invoke(reproduce, "table1", "--scale", "paper")
    assert not [*tmp_path.iterdir()]
