"""The series of a metric over commits: made of runs."""

import math
import subprocess
import sys
from pathlib import Path

from harness.cell import AXES
from harness.history.commits import commits_of
from harness.history.kernel_times import read_kernels
from harness.history.series import COLUMNS, history, series
from harness.matrix.outcome import Outcome, Status
from harness.store.table import load
from tests.support.histories import NO_RUNS, SCORES, A, cell, read, write_run


def test_one_row_for_each_cell_metric_and_commit(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): SCORES, cell("fomaml"): SCORES})
    table = read(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 6
    one = table[(table["estimator"] == "maml") & (table["metric"] == "time")].iloc[0]
    assert (one["value"], one["low"], one["high"], one["count"]) == (2.0, 1.5, 2.5, 3)
    assert one["samples"] == [3.0, 1.0, 2.0]
    assert one["cell"] == cell().id
    assert {axis: one[axis] for axis in AXES} == cell().as_dict()
    assert (one["commit"], one["machine"], one["fingerprint"]) == (A, "here", "f00d")


def test_the_newest_run_of_a_commit_wins_cell_by_cell(tmp_path: Path) -> None:
    older = {cell(): SCORES, cell("fomaml"): {"hvps": [3.0]}}
    write_run(tmp_path, A, {cell(): {"hvps": [9.0]}}, at="2026-01-02", name="a")
    write_run(tmp_path, A, older, at="2026-01-01", name="b")
    table = read(tmp_path)
    assert set(zip(table["estimator"], table["metric"], table["value"], strict=True)) == {
        ("maml", "hvps", 9.0),
        ("fomaml", "hvps", 3.0),
    }


def test_code_of_a_commit_and_machines_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): {"hvps": [1.0]}})
    write_run(tmp_path, A, {cell(): {"hvps": [2.0]}}, changes="0123456789ab")
    write_run(tmp_path, "", {cell(): {"hvps": [3.0]}})
    assert read(tmp_path)["value"].to_list() == [1.0]
    long, (kernels, _) = load(tmp_path)[0], read_kernels(tmp_path)
    table = series(long, kernels, commits_of(long, kernels, tmp_path), uncommitted=True)
    assert table["changes"].to_list() == ["", "0123456789ab"]
    assert table["value"].to_list() == [1.0, 2.0]
    write_run(tmp_path, A, {cell(): {"hvps": [4.0]}}, fingerprint="beef")
    write_run(tmp_path, A, {cell(): {"hvps": [5.0]}}, machine="there")
    table = read(tmp_path)
    places = zip(table["machine"], table["fingerprint"], table["value"], strict=True)
    assert set(places) == {("here", "f00d", 1.0), ("here", "beef", 4.0), ("there", "f00d", 5.0)}


def test_a_cell_that_failed_has_one_row(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): Outcome(Status.FAILED, "broken")})
    (row,) = read(tmp_path).to_dict("records")
    assert (row["metric"], row["outcome"], row["reason"]) == ("", "failed", "broken")
    assert math.isnan(row["value"])


def test_nothing_is_an_empty_table(tmp_path: Path) -> None:
    table = history(NO_RUNS, read_kernels(tmp_path)[0], tmp_path)
    assert table.empty
    assert tuple(table.columns) == COLUMNS


def test_a_history_is_read_without_torch(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell("maml"): SCORES})
    code = (
        "import sys; from pathlib import Path; from harness.store.table import load; "
        "import harness.history.compare, harness.history.changes; "
        "from harness.history.series import stored_history; store = Path(sys.argv[1]); "
        "stored_history(store, load(store)[0], store); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
