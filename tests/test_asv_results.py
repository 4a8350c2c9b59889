"""asv's own result files, as asv writes them, and as they are when something went wrong."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.asv.results import COLUMNS, load_asv
from tests.support.asv_files import HEADLINE, MATRIX, Values, write_asv

A, B = ("a" * 40, "b" * 40)


def test_asv_table(tmp_path: Path) -> None:
    tracked: Values = {
        MATRIX + "bias": [0.5, math.nan, None, math.inf],
        MATRIX + "time": [[3.0, 1.0, 2.0], math.nan, None, [4.0]],
        HEADLINE: [[0.1, 0.3, 0.2], None],
    }
    write_asv(tmp_path, A, tracked, started_at=datetime(2026, 1, 2, tzinfo=UTC))
    table, problems = load_asv(tmp_path)
    assert problems == []
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 10
    assert set(table["machine"]) == {"here"}
    assert set(table["commit"]) == {A}
    assert set(table["environment"]) == {"virtualenv-py3.11"}
    assert set(table["date"]) == {pd.Timestamp(1_700_000_000_000, unit="ms", tz="UTC")}
    assert set(table["started"]) == {"2026-01-02T00:00:00+00:00"}
    bias = table[table["metric"] == "bias"]
    assert bias["outcome"].to_list() == ["ok", "skipped", "failed", "ok"]
    assert bias["value"].iloc[[0, 3]].to_list() == [0.5, math.inf]
    assert bias["value"].iloc[1:3].isna().all()
    assert set(bias["benchmark"]) == {MATRIX + "bias"}
    assert bias["estimator"].to_list() == ["maml", "maml", "fomaml", "fomaml"]
    assert bias["device"].to_list() == ["cpu", "cuda:0"] * 2
    point = bias[["task", "model", "depth", "cell", "unit", "version"]].drop_duplicates()
    assert point.to_numpy().tolist() == [["sinusoid", "mlp-40-40", 5, "", "", "1"]]
    one = table[table["metric"] == "time"].iloc[0]
    assert (one["value"], one["low"], one["high"]) == (2.0, 1.5, 2.5)
    assert (one["count"], one["samples"], one["unit"]) == (3, [3.0, 1.0, 2.0], "s")
    headline = table[table["metric"] == HEADLINE]
    assert headline["cell"].to_list() == [f"{HEADLINE}('maml')", f"{HEADLINE}('fomaml')"]
    assert headline["estimator"].to_list() == ["maml", "fomaml"]
    assert headline["outcome"].to_list() == ["ok", "failed"]
    assert headline["depth"].isna().all()
    assert set(headline["unit"]) == {"seconds"}


def test_a_benchmark_that_failed_whole(tmp_path: Path) -> None:
    write_asv(tmp_path, A, {MATRIX + "bias": [None] * 4})
    table, _ = load_asv(tmp_path)
    assert table["outcome"].to_list() == ["failed"] * 4


def test_nothing_of_asv_is_an_empty_table(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        table, problems = load_asv(folder)
        assert (len(table), problems) == (0, [])
        assert tuple(table.columns) == COLUMNS


def damage(path: Path, change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), "utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 1}, "old file format"),
        ({"commit_hash": None}, "must be texts"),
        ({"date": "today"}, "'today' is no date"),
        ({"params": {"machine": "elsewhere"}}, "machine name is not 'here'"),
        ({"results": []}, "AttributeError"),
        ({"result_columns": ["result", "colour"]}, "unknown data key colour"),
    ],
)
def test_a_foreign_file_is_one_problem(tmp_path: Path, change: Any, what: str) -> None:
    path = write_asv(tmp_path, A, {MATRIX + "bias": [0.5] * 4})
    write_asv(tmp_path, B, {MATRIX + "bias": [0.25] * 4})
    damage(path, change)
    table, problems = load_asv(tmp_path)
    assert set(table["commit"]) == {B}
    assert [problem.path for problem in problems] == [path]
    assert what in str(problems[0])
    assert "\n" not in str(problems[0])


@pytest.mark.parametrize("text", ["{", "", "[1]", "7", "\udcff", "[" * 99_999])
def test_a_broken_file_is_one_problem(
    tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_asv(tmp_path, A, {MATRIX + "bias": [0.5] * 4})
    write_asv(tmp_path, B, {MATRIX + "bias": [0.25] * 4})
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    for broken in (path, path.parent / "machine.json"):
        broken.write_text(text, encoding="utf-8", errors="surrogateescape")
        table, problems = load_asv(tmp_path)
        assert [problem.path for problem in problems] == [broken]
        assert set(table["commit"]) == ({B} if broken == path else set())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["fast", True, [1.0], {}])
def test_results_that_are_no_numbers_are_a_problem_of_one_benchmark(
    tmp_path: Path, value: Any
) -> None:
    path = write_asv(tmp_path, A, {MATRIX + "bias": [0.5] * 4, MATRIX + "hvps": [1.0] * 4})
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["results"][MATRIX + "bias"][0][3] = value
    damage(path, stored)
    table, problems = load_asv(tmp_path)
    assert set(table["metric"]) == {"hvps"}
    assert len(problems) == 1
    assert f"{MATRIX}bias cannot be read" in str(problems[0])


def test_results_are_read_without_the_list_of_benchmarks(tmp_path: Path) -> None:
    write_asv(tmp_path, A, {MATRIX + "bias": [0.5] * 4, HEADLINE: [0.1, 0.2]})
    whole, _ = load_asv(tmp_path)
    (tmp_path / "benchmarks.json").write_text("{", encoding="utf-8")
    table, problems = load_asv(tmp_path)
    assert [problem.path.name for problem in problems] == ["benchmarks.json"]
    of_matrix = table["metric"] == "bias"
    assert table[of_matrix].equals(whole[whole["metric"] == "bias"])
    assert table.loc[~of_matrix, "value"].to_list() == [0.1, 0.2]
