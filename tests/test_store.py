"""The store: what is read back, and what is told about what cannot be read."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.cell import Cell
from harness.journal import SCHEMA, Journal, Progress
from harness.outcome import Outcome, Status
from harness.probes.bias import Samples
from harness.runs import last_progress, read_run
from harness.store import COLUMNS, StoreError, load, load_sound, summary

ENVIRONMENT = {"commit": "c0ffee", "changes": "", "machine": "box"}
OK = Outcome(Status.OK)


def cell(estimator: str = "fomaml") -> Cell:
    return Cell.of(estimator=estimator, task="sinusoid", model="mlp-40-40", depth=5)


def write_run(store: Path) -> Path:
    """A run of three cells: a whole one, one that failed in timing, one that was skipped."""
    journal = Journal(store)
    journal.start(ENVIRONMENT, cells=3)
    journal.result(cell("binom(order=9)"), "score", Outcome(Status.SKIPPED, "order too high"))
    for estimator in ("maml", "fomaml"):
        score: Samples = {"bias": [1.0, 2.0, 3.0, 6.0], "flops": [7], "of-a-later-version": [1.0]}
        journal.result(cell(estimator), "score", OK, score)
    journal.progress(Progress(1.0, 2.0, "timing"))
    journal.result(cell("maml"), "time", OK, {"time": [4.0, 1.0, 2.0, 3.0, 10.0]})
    journal.result(cell("fomaml"), "time", Outcome(Status.TIMEOUT, "not done after 1 s"))
    journal.end()
    return journal.path


def fingerprint(store: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(store.rglob("*"))
    }


def test_long_table(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    before = fingerprint(tmp_path)
    table, problems = load(tmp_path)
    assert problems == []
    assert list(table.columns) == list(COLUMNS)
    assert set(table["run"]) == {path.stem}
    assert set(table["commit"]) == {"c0ffee"}
    rows = {(row.estimator, row.metric): row for row in table.itertuples()}
    assert len(rows) == len(table) == 1 + 3 + 2
    skipped: Any = rows["binom(order=9)", ""]
    assert (skipped.outcome, skipped.reason) == ("skipped", "order too high")
    assert math.isnan(skipped.value)
    time: Any = rows["maml", "time"]
    assert (time.value, time.low, time.high, time.unit) == (3.0, 2.0, 4.0, "s")
    assert time.samples == [4.0, 1.0, 2.0, 3.0, 10.0]
    assert (time.task, time.model, time.depth, time.seed) == ("sinusoid", "mlp-40-40", 5, 0)
    assert (time.outcome, time.cell) == ("ok", cell("maml").id)
    late: Any = rows["fomaml", "bias"]
    assert (late.outcome, late.reason, late.value) == ("timeout", "not done after 1 s", 3.0)
    assert load_sound(tmp_path).equals(table)
    assert fingerprint(tmp_path) == before


def test_a_cell_ends_as_the_first_bad_one_of_its_stages(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.start(ENVIRONMENT, cells=1)
    for outcome in (OK, Outcome(Status.FAILED, "first"), Outcome(Status.TIMEOUT, "late"), OK):
        journal.result(cell(), "score", outcome)
    (found,) = read_run(journal.path).cells
    assert (found.status, found.reason) == (Status.FAILED, "first")


def test_mean_has_students_interval() -> None:
    found = summary("bias", [1.0, 2.0, 3.0, 6.0])
    # Mean 3; squares 4 + 1 + 0 + 9 = 14 over 3; standard error sqrt(14 / 3 / 4); t(.975; 3).
    half = 3.182446305284263 * math.sqrt(14 / 12)
    assert found["value"] == 3
    assert (found["low"], found["high"]) == pytest.approx((3 - half, 3 + half), rel=1e-12)
    assert found["samples"] == [1.0, 2.0, 3.0, 6.0]


def test_median_has_quartiles() -> None:
    found = summary("time", [7.0, 1.0, 2.0, 4.0, 3.0, 5.0])
    assert (found["low"], found["value"], found["high"]) == (2.25, 3.5, 4.75)


@pytest.mark.parametrize("metric", ["bias", "flops", "peak_memory"])
def test_single_value_has_no_interval(metric: str) -> None:
    found = summary(metric, [5.0])
    assert found["value"] == 5
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])


def test_runs_are_in_the_order_of_their_start(tmp_path: Path) -> None:
    names = []
    for day in (3, 1, 2):
        path = write_run(tmp_path)
        names.append(path.rename(path.with_name(f"2026010{day}T000000-abcdef.jsonl")).stem)
    assert list(dict.fromkeys(load_sound(tmp_path)["run"])) == sorted(names)


@pytest.mark.parametrize("torn", [1, 20, 200])
def test_torn_last_line_does_not_count(tmp_path: Path, torn: int) -> None:
    path = write_run(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:torn])
    before = fingerprint(tmp_path)
    table, problems = load(tmp_path)
    assert problems == []
    assert set(table["estimator"]) == {"binom(order=9)", "maml", "fomaml"}
    assert fingerprint(tmp_path) == before


def test_a_run_that_has_only_begun_has_no_rows(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.start(ENVIRONMENT, cells=1)
    assert last_progress(journal.path) is None
    assert read_run(journal.path).cells == []
    assert load_sound(tmp_path).empty
    journal.progress(Progress(1.0, 4.0, "it"))
    journal.progress(Progress(2.0, 4.0, "more"))
    assert last_progress(journal.path) == Progress(2.0, 4.0, "more")


@pytest.mark.parametrize("line", ["{torn", "[1, 2]", "null", ""], ids=ascii)
def test_broken_line_is_told_and_the_rest_is_read(tmp_path: Path, line: str) -> None:
    path = write_run(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", encoding="utf-8")
    before = fingerprint(tmp_path)
    table, problems = load(tmp_path)
    assert [str(problem) for problem in problems] == [f"{path}: line 3 is not a JSON object"]
    assert set(table["estimator"]) == {"binom(order=9)", "maml", "fomaml"}
    with pytest.raises(StoreError, match="line 3 is not a JSON object; mend it or move it out"):
        load_sound(tmp_path)
    assert fingerprint(tmp_path) == before


START = {"event": "start", "at": "now", "schema": SCHEMA, "environment": ENVIRONMENT, "cells": 1}
RESULT = {
    "event": "result",
    "id": "x",
    "cell": cell().as_dict(),
    "stage": "score",
    "status": "ok",
    "reason": "",
    "samples": {"bias": [1.0]},
}


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ([{"event": "end"}], "the first line is not the start of a run"),
        ([{"hello": "world"}], "the first line is not the start of a run"),
        ([START | {"schema": 999}], f"it has schema 999, this version reads {SCHEMA}"),
        ([START, {"no": "event"}], "an event lacks what it should have"),
        ([START, RESULT | {"status": "fine"}], "'fine' is not a valid Status"),
        ([START, RESULT | {"cell": {}}], "not a run that can be read"),
        ([START, RESULT | {"cell": 3}], "not a run that can be read"),
        ([START | {"environment": {}}, RESULT], "not a run that can be read"),
        ([START, RESULT | {"samples": {"bias": ["much"]}}], "not a run that can be read"),
        ([START, RESULT | {"samples": {"bias": 1.0}}], "not a run that can be read"),
        ([START, RESULT | {"samples": {"bias": []}}], "not a run that can be read"),
        ([START, RESULT | {"samples": [1.0]}], "not a run that can be read"),
    ],
    ids=range(12),
)
def test_foreign_files_are_told_and_the_others_read(
    tmp_path: Path, events: list[dict[str, Any]], what: str
) -> None:
    write_run(tmp_path)
    path = tmp_path / "runs" / "foreign.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    before = fingerprint(tmp_path)
    table, problems = load(tmp_path)
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"{path}: ")
    assert what in str(problems[0])
    assert len(table) == 6
    with pytest.raises(StoreError, match=r"foreign\.jsonl: .*; mend it or move it out"):
        load_sound(tmp_path)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary\n", b"\x00" * 64, b"hello\n"], ids=str)
def test_files_that_are_no_text_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "odd.jsonl").write_bytes(content)
    table, problems = load(tmp_path)
    assert table.empty
    assert len(problems) == 1
    with pytest.raises(StoreError, match=r"odd\.jsonl: not a run that can be read"):
        load_sound(tmp_path)


def test_missing_and_empty_stores_are_told(tmp_path: Path) -> None:
    for store in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StoreError, match=f"no results in {store}; `make bench` or `metagrad"):
            load(store)
    assert not list(tmp_path.iterdir())


def test_journals_of_one_moment_do_not_meet(tmp_path: Path) -> None:
    assert len({Journal(tmp_path).path for _ in range(20)}) == 20


def test_run_that_was_killed_before_its_first_line_is_nothing(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "runs" / "begun.jsonl").touch()
    table, problems = load(tmp_path)
    assert table["run"].nunique() == 1
    assert not problems
