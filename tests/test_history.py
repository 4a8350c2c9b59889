"""The series of a metric over commits: what runs tell, and what asv alone tells."""

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from harness.asv.results import load_asv
from harness.cell import AXES
from harness.history.series import COLUMNS, history
from harness.matrix.outcome import Outcome, Status
from harness.store.table import load
from tests.support.asv_files import MATRIX, POINTS, write_asv
from tests.support.histories import NO_RUNS, SCORES, A, cell, read, write_run
from tests.support.repositories import three_commits


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


def test_uncommitted_changes_and_unknown_commits_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): {"hvps": [1.0]}})
    write_run(tmp_path, A, {cell(): {"hvps": [2.0]}}, changes="0123456789ab")
    write_run(tmp_path, A, {cell(): {"hvps": [3.0]}}, changes="cdef")
    write_run(tmp_path, "", {cell(): {"hvps": [4.0]}})
    assert read(tmp_path)["value"].to_list() == [1.0]


def test_uncommitted_changes_are_told_apart_when_they_are_asked_for(tmp_path: Path) -> None:
    from harness.history.commits import commits_of
    from harness.history.series import series

    write_run(tmp_path, A, {cell(): {"hvps": [1.0]}})
    write_run(tmp_path, A, {cell(): {"hvps": [2.0]}}, changes="0123456789ab")
    write_asv(tmp_path / "asv", A, {MATRIX + "hvps": [7.0, math.nan, 8.0, math.nan]})
    long, (asv, _) = load(tmp_path)[0], load_asv(tmp_path / "asv")
    told = series(long, asv, commits_of(long, asv, tmp_path), uncommitted=True)
    told = told[told["estimator"] == "maml"]
    told = told[told["metric"] == "hvps"]
    assert told["changes"].to_list() == ["", "0123456789ab"]
    assert told["value"].to_list() == [1.0, 2.0]


def test_machines_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): {"hvps": [1.0]}})
    write_run(tmp_path, A, {cell(): {"hvps": [2.0]}}, fingerprint="beef")
    write_run(tmp_path, A, {cell(): {"hvps": [3.0]}}, machine="there")
    table = read(tmp_path)
    places = zip(table["machine"], table["fingerprint"], table["value"], strict=True)
    assert set(places) == {("here", "f00d", 1.0), ("here", "beef", 2.0), ("there", "f00d", 3.0)}


def test_a_cell_that_failed_has_one_row(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell(): Outcome(Status.FAILED, "broken")})
    (row,) = read(tmp_path).to_dict("records")
    assert (row["metric"], row["outcome"], row["reason"]) == ("", "failed", "broken")
    assert math.isnan(row["value"])


def test_nothing_is_an_empty_table(tmp_path: Path) -> None:
    asv, _ = load_asv(tmp_path)
    table = history(NO_RUNS, asv, tmp_path)
    assert table.empty
    assert tuple(table.columns) == COLUMNS


def test_real_commits_order_the_series(tmp_path: Path) -> None:
    folder, order = three_commits(tmp_path)
    for commit, count in zip(reversed(order), (3.0, 2.0, 1.0), strict=True):
        write_run(tmp_path, commit, {cell(): {"hvps": [count]}})
    table = read(tmp_path, folder)
    assert table["value"].to_list() == [1.0, 2.0, 3.0]
    assert table["subject"].to_list() == ["first", "second: ü", "third"]


def large() -> pd.DataFrame:
    """100,000 measurements over 200 commits, as the store tells them."""
    count, cells, metrics = 200, 50, 10
    long = pd.DataFrame(
        {
            "commit": [f"{i:040x}" for i in range(count) for _ in range(cells * metrics)],
            "cell": [
                f"cell {i}" for _ in range(count) for i in range(cells) for _ in range(metrics)
            ],
            "metric": [f"metric {i}" for _ in range(count * cells) for i in range(metrics)],
        }
    )
    made: dict[str, Any] = {
        **dict.fromkeys(["task", "model", "device", "dtype", "outcome", "reason", "notes"], "x"),
        **dict.fromkeys(["depth", "seed", "tasks", "trained", "schema"], 1),
        **{"run": long["commit"], "started": "2026-01-01", "changes": "", "machine": "here"},
        **{"fingerprint": "f", "estimator": long["cell"], "step_size": 0.1, "unit": ""},
        **{"value": 1.0, "low": 0.5, "high": 2.0},
        "samples": pd.Series([[1.0]] * len(long), dtype=object),
    }
    return long.assign(**made)


def test_a_long_history_is_quick(tmp_path: Path) -> None:
    long, (asv, _) = large(), load_asv(tmp_path)
    assert len(long) == 100_000
    took = []
    for _ in range(3):  # others work on the machine too
        start = time.process_time()
        table = history(long, asv, tmp_path)
        took.append(time.process_time() - start)
    assert len(table) == 100_000
    assert min(took) < 1.0


def test_reading_needs_no_torch() -> None:
    code = "import sys, harness.history.series, harness.history.compare, harness.history.changes"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_what_runs_tell_needs_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path, A, {cell("maml"): SCORES, cell("fomaml"): SCORES})
    write_asv(tmp_path / "asv", A, {MATRIX + "hvps": [7.0, 7.0, 8.0, 8.0]})
    assert POINTS[3] == ["'cpu'", "'cuda:0'"]
    write_run(tmp_path, A, {cell(name, device="cuda:0"): SCORES for name in ("maml", "fomaml")})
    code = (
        "import sys; from pathlib import Path; from harness.store.table import load; "
        "from harness.asv.results import load_asv; "
        "from harness.history.series import history; store = Path(sys.argv[1]); "
        "history(load(store)[0], load_asv(store / 'asv')[0], store); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
