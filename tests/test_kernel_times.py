"""Times of kernels: what pytest-benchmark writes, as it stands in the history."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.history.changes import changes
from harness.history.compare import compare
from harness.history.kernel_times import read_kernels
from harness.history.series import history
from harness.store.table import load
from tests.support.histories import NO_RUNS, SCORES, A, cell, write_run
from tests.support.kernel_files import HERE, changed, of_commit, timed, write
from tests.support.repositories import three_commits

ESTIMATE = "test_tiny.test_estimate(sinusoid)"
MAML = "tests/perf/test_tiny.py::test_estimate[maml-sinusoid]"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    return three_commits(tmp_path_factory.mktemp("r"))


@pytest.fixture(scope="module")
def times(repository: tuple[Path, list[str]]) -> dict[str, Any]:
    return timed(repository[0])


def write_times(store: Path, times: dict[str, Any], *medians: tuple[str, float]) -> None:
    """Write a file for each commit and median, day after day."""
    for day, (commit, median) in enumerate(medians, 1):
        write(store / "benchmarks" / f"{day}.json", of_commit(times, commit, median, day=day))


def kernels(folder: Path) -> pd.DataFrame:
    table, problems = read_kernels(folder)
    assert problems == []
    return table


def problem(folder: Path) -> str:
    table, problems = read_kernels(folder)
    assert table.empty
    (one,) = problems
    assert one.path.parent == folder / "benchmarks"
    return one.what


def test_each_kernel_of_a_real_file_is_a_row(
    tmp_path: Path, repository: tuple[Path, list[str]], times: dict[str, Any]
) -> None:
    write(tmp_path / "benchmarks" / "x.json", times)
    table = kernels(tmp_path)
    assert set(table["metric"]) == {
        *(ESTIMATE, "test_tiny.test_estimate(glyphs)"),
        *("test_tiny.test_alone", "test_tiny.test_odd"),
    }
    stats = {one["fullname"]: one["stats"] for one in times["benchmarks"]}
    assert set(table["cell"]) == set(stats)
    for row in table.to_dict("records"):
        its = stats[row["cell"]]
        assert (row["value"], row["low"], row["high"]) == (its["median"], its["q1"], its["q3"])
        assert (row["count"], row["samples"]) == (its["rounds"], None)
        assert row["outcome"] == "ok"
    maml = table.set_index("cell").loc[MAML]
    assert (maml["estimator"], maml["task"], maml["unit"]) == ("maml", "sinusoid", "s")
    assert (maml["machine"], maml["commit"]) == (HERE, repository[1][-1])
    assert maml["date"] == pd.Timestamp("2026-03-01T12:00", tz="UTC")
    assert str(maml["started"]).endswith("+00:00")


def test_they_are_in_the_order_of_the_commits(
    tmp_path: Path, repository: tuple[Path, list[str]], times: dict[str, Any]
) -> None:
    folder, hashes = repository
    write_times(tmp_path, times, *zip(reversed(hashes), (3.0, 2.0, 1.0), strict=True))
    table = history(NO_RUNS, kernels(tmp_path), folder)
    rows = table[table["cell"] == MAML]
    assert rows["value"].to_list() == [1.0, 2.0, 3.0]
    assert rows["subject"].to_list() == ["first", "second: ü", "third"]
    assert set(table["fingerprint"]) == {""}
    # They belong to the machine that made the runs, if there are any.
    write_run(tmp_path, A, {cell(): SCORES}, machine=HERE)
    table = history(load(tmp_path)[0], kernels(tmp_path), tmp_path)
    assert set(zip(table["machine"], table["fingerprint"], strict=True)) == {(HERE, "f00d")}
    assert {"bias", "time", ESTIMATE} <= set(table["metric"])


def test_changes_of_kernels(tmp_path: Path, times: dict[str, Any]) -> None:
    medians = [(f"{number}" * 40, 1.0 + 0.01 * (number % 2) + (number > 3)) for number in range(8)]
    write_times(tmp_path, times, *medians)
    table = history(NO_RUNS, kernels(tmp_path), tmp_path)
    steps = changes(table)
    assert len(steps) == len(times["benchmarks"])
    assert set(steps["commit"]) == {"4" * 40}
    assert set(steps["verdict"]) == {"worse"}
    # Between two commits, the quartiles decide.
    assert not compare(table, "0" * 40, "1" * 40)["differs"].any()
    assert compare(table, "0" * 40, "4" * 40)["differs"].all()


def test_of_a_commit_timed_twice_the_later_counts_kernel_by_kernel(
    tmp_path: Path, times: dict[str, Any]
) -> None:
    later = of_commit(times, A, 2.0, day=2)
    later["benchmarks"] = [one for one in later["benchmarks"] if one["fullname"] == MAML]
    write(tmp_path / "benchmarks" / "0.json", later)
    write_times(tmp_path, times, (A, 1.0))
    table = history(NO_RUNS, kernels(tmp_path), tmp_path)
    assert not table.duplicated("cell").any()
    others = {one["fullname"]: 1.0 for one in times["benchmarks"]}
    assert dict(zip(table["cell"], table["value"], strict=True)) == others | {MAML: 2.0}


def test_files_that_are_no_times_of_a_commit_are_refused(
    tmp_path: Path, times: dict[str, Any]
) -> None:
    median = "benchmarks.0.stats.median"
    odd: list[tuple[str, Any, str]] = [
        *(("commit_info.dirty", value, "uncommitted changes") for value in (True, None)),
        *(("commit_info.id", value, "commit") for value in ("unversioned", "--output=x", None)),
        *(("commit_info", [], "pytest-benchmark"), ("machine_info.node", "", "pytest-benchmark")),
        *(("machine_info", None, "pytest-benchmark"), ("benchmarks", {}, "pytest-benchmark")),
        ("benchmarks", [], "--benchmark-enable"),
        *(("datetime", value, "time") for value in ("yesterday", 3)),
        *(("benchmarks.0", 3, "name"), ("benchmarks.0.fullname", None, "name")),
        ("benchmarks.0.stats", None, "median"),
        *((median, value, "median") for value in (math.nan, math.inf, "1", True, -1.0)),
        ("benchmarks.0.stats.rounds", 2**63, "rounds"),
    ]
    for path, value, named in odd:
        write(tmp_path / "benchmarks" / "x.json", changed(times, path, value))
        assert named in problem(tmp_path), (path, value)
    file = tmp_path / "benchmarks" / "x.json"
    for content in (b"", b"x", b"[]", b"\xff", b'{"a": 1e999', b"{" * 10**5):
        file.write_bytes(content)
        assert "pytest-benchmark" in problem(tmp_path), content[:20]
    file.unlink()
    file.mkdir()
    assert "Is a directory" in problem(tmp_path)


def test_parameters_and_odd_facts(tmp_path: Path, times: dict[str, Any]) -> None:
    for path, value in (
        ("commit_info.time", None),
        ("commit_info.time", "0001-01-01T00:00:00+14:00"),
        ("commit_info.time", "9999-12-31T23:59:59+00:00"),
        ("benchmarks.0.params", {"depth": 2**70, "task": [1], "estimator": None}),
        ("benchmarks.0.params", {"depth": True}),
        ("benchmarks.0.fullname", "\ud800"),
        ("benchmarks.0.fullname", ""),
        ("datetime", "2026-01-01T00:00:00"),
    ):
        write(tmp_path / "benchmarks" / "x.json", changed(times, path, value))
        table = kernels(tmp_path)
        assert len(history(NO_RUNS, table, tmp_path)) == len(times["benchmarks"]), (path, value)
    params = {"depth": 5, "estimator": "maml"}
    write(tmp_path / "benchmarks" / "x.json", changed(times, "benchmarks.0.params", params))
    row = kernels(tmp_path).iloc[0]
    assert (row["depth"], row["metric"]) == (5, "test_tiny.test_estimate(5)")
