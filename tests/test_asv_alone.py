"""What asv tells beside runs: told once, of the right machine and cell."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.asv.results import load_asv
from harness.history.series import history
from tests.support.asv_files import HEADLINE, MATRIX, write_asv
from tests.support.histories import NO_RUNS, SCORES, A, B, C, cell, read, values, write_run


def test_asv_and_a_run_of_the_same_commit_are_not_told_twice(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): SCORES})
    tracked = {
        MATRIX + "hvps": [7.0, math.nan, 8.0, math.nan],
        MATRIX + "flops": [70.0, math.nan, 80.0, math.nan],
    }
    write_asv(tmp_path / "asv", A, tracked)
    table = read(tmp_path)
    maml = table[(table["estimator"] == "maml") & (table["device"] == "cpu")].set_index("metric")
    assert maml["value"].to_dict() == {"bias": 0.2, "hvps": 5.0, "time": 2.0, "flops": 70.0}
    assert (maml["run"] == "").to_dict()["flops"]
    assert set(maml["fingerprint"]) == {"f00d"}
    assert set(maml["cell"]) == {cell().id}
    fomaml = table[(table["estimator"] == "fomaml") & (table["device"] == "cpu")]
    assert set(fomaml["cell"]) == {cell("fomaml").id}
    assert fomaml["step_size"].to_list() == [0.01, 0.01]
    absent = table[table["device"] == "cuda:0"]
    assert (absent["metric"] == "").all()
    assert absent["outcome"].to_list() == ["skipped", "skipped"]


def test_a_value_that_asv_alone_lacks_is_no_outcome(tmp_path: Path) -> None:
    write_asv(tmp_path, A, {MATRIX + "hvps": [1.0] * 4, MATRIX + "launches": [math.nan] * 4})
    asv, _ = load_asv(tmp_path)
    assert history(NO_RUNS, asv, tmp_path)["metric"].to_list() == ["hvps"] * 4


def test_asv_goes_on_where_runs_end(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): {"hvps": [5.0]}}, at="2020-01-01T00:00:00+00:00")
    write_asv(tmp_path / "asv", B, {MATRIX + "hvps": [6.0, 1.0, 1.0, 1.0]})
    table = read(tmp_path)
    of_cell = table[table["cell"] == cell().id]
    assert values(of_cell, "hvps") == {A: 5.0, B: 6.0}
    assert of_cell.groupby(["machine", "fingerprint"]).ngroups == 1


def test_asv_goes_to_the_machine_that_measured_the_commit(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): {"hvps": [5.0]}})
    write_run(tmp_path, B, {cell(): {"hvps": [5.0]}}, fingerprint="beef")
    for commit in (A, B, C):
        write_asv(tmp_path / "asv", commit, {MATRIX + "flops": [1.0] * 4})
    table = read(tmp_path)
    flops = table[(table["metric"] == "flops") & (table["cell"] == cell().id)]
    told = dict(zip(flops["commit"], flops["fingerprint"], strict=True))
    assert told == {A: "f00d", B: "beef", C: ""}


def test_cells_that_are_not_known_here_keep_the_parts_of_their_name(tmp_path: Path) -> None:
    write_asv(tmp_path, A, {MATRIX + "hvps": [1.0] * 4})
    asv, _ = load_asv(tmp_path)
    table = history(NO_RUNS, asv.assign(estimator="of-a-plugin"), tmp_path)
    assert "sinusoid/mlp-40-40/K5/of-a-plugin/cpu" in set(table["cell"])
    assert table["step_size"].isna().all()


def test_a_benchmark_with_a_new_version_is_not_compared_with_the_old(tmp_path: Path) -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    write_asv(tmp_path, A, {MATRIX + "hvps": [1.0] * 4, HEADLINE: [1.0, 1.0]}, started_at=day)
    newer = {MATRIX + "hvps": [2.0] * 4}
    write_asv(tmp_path, B, newer, version="2", started_at=day + timedelta(days=1))
    asv, _ = load_asv(tmp_path)
    table = history(NO_RUNS, asv, tmp_path)
    assert set(values(table[table["cell"] == cell().id], "hvps")) == {B}
    assert set(table.loc[table["metric"] == HEADLINE, "commit"]) == {A}


def test_of_two_environments_the_later_counts(tmp_path: Path) -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    for days, name in ((1, "a"), (2, "b"), (0, "c")):
        write_asv(
            tmp_path,
            A,
            {MATRIX + "hvps": [float(days)] * 4},
            environment=name,
            started_at=day + timedelta(days=days),
        )
    asv, _ = load_asv(tmp_path)
    table = history(NO_RUNS, asv, tmp_path)
    assert set(table["value"]) == {2.0}
    assert set(table["environment"]) == {"b"}
