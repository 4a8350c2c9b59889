"""The store: what is read back, and what is told about what cannot be read."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.matrix.outcome import Outcome, Status
from harness.store.journal import SCHEMA, Journal, Result
from harness.store.runs import read_run
from harness.store.table import COLUMNS, load, load_sound, summaries
from tests.support.store_runs import (
    ENVIRONMENT,
    OK,
    START,
    cell,
    fingerprint,
    write_events,
    write_run,
)

FAILED = Outcome(Status.FAILED, "broken")
LATE = Outcome(Status.TIMEOUT, "not done")


def test_long_table(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    before = fingerprint(tmp_path)
    table, problems = load(tmp_path)
    assert problems == []
    assert list(table.columns) == list(COLUMNS)
    assert set(table["run"]) == {path.stem}
    assert set(table["commit"]) == {"c0ffee"}
    rows = {(row.estimator, row.metric): row for row in table.itertuples()}
    assert len(rows) == len(table) == 1 + 4 + 3
    skipped: Any = rows["binom(order=9)", ""]
    assert (skipped.outcome, skipped.reason) == ("skipped", "order too high")
    assert math.isnan(skipped.value)
    assert skipped.samples is None
    time: Any = rows["maml", "time"]
    assert (time.value, time.low, time.high, time.unit) == (3.0, 2.0, 4.0, "s")
    assert time.samples == [4.0, 1.0, 2.0, 3.0, 10.0]
    assert (time.task, time.model, time.depth, time.seed) == ("sinusoid", "mlp-40-40", 5, 0)
    assert (time.outcome, time.cell, time.notes) == ("ok", cell("maml").id, "odd; very; late")
    assert (time.fingerprint, time.schema, time.trained) == ("f00d", SCHEMA, 0)
    late: Any = rows["fomaml", "bias"]
    assert (late.outcome, late.reason, late.value) == ("timeout", "not done after 1 s", 3.0)
    later: Any = rows["maml", "of-a-later-version"]
    assert (later.value, later.unit, later.samples) == (2.5, "", [1.0, 4.0])
    assert math.isnan(later.low)
    pd.testing.assert_frame_equal(load_sound(tmp_path), table)
    assert fingerprint(tmp_path) == before


def test_a_cell_ends_as_the_first_bad_one_of_its_stages(tmp_path: Path) -> None:
    cases: list[tuple[list[tuple[str, Outcome]], Outcome]] = [
        ([("score", OK), ("time", OK)], OK),
        ([("score", FAILED), ("time", LATE)], FAILED),
        ([("time", LATE), ("score", OK)], LATE),
        ([("score", FAILED), ("score", OK)], OK),
        ([("score", OK), ("time", OK), ("score", FAILED)], FAILED),
        ([("score", OK), ("of-a-later-version", LATE)], LATE),
    ]
    for stages, end in cases:
        journal = Journal.create(tmp_path)
        journal.start(ENVIRONMENT, cells=1)
        for stage, outcome in stages:
            journal.results(stage, [Result(cell(), outcome)])
        (result,) = read_run(journal.path).cells
        assert (result.status, result.reason) == (end.status, end.reason), stages


def test_a_journal_that_is_written_and_its_repeated_stage(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path)
    journal.start(ENVIRONMENT, cells=1)
    journal.results("score", [Result(cell(), OK, {"bias": [9.0], "flops": [8.0]}, ["old"])])
    assert load_sound(tmp_path)["value"].to_list() == [9.0, 8.0]
    assert not read_run(journal.path).ended
    journal.results("time", [Result(cell(), OK, {"time": [1.0]})])
    journal.results("score", [Result(cell(), OK, {"bias": [2.0]}, ["new"])])
    journal.end()
    table = load_sound(tmp_path)
    assert dict(zip(table["metric"], table["value"], strict=True)) == {"bias": 2.0, "time": 1.0}
    assert set(table["notes"]) == {"new"}
    assert read_run(journal.path).ended


def one(metric: str, samples: list[float]) -> Any:
    (row,) = summaries([metric], [samples]).itertuples()
    return row


def test_samples_are_summarized_by_metric() -> None:
    row = one("bias", [1.0, 2.0, 3.0, 6.0])
    # Mean 3; squares 4 + 1 + 0 + 9 = 14 over 3; standard error sqrt(14 / 3 / 4); t(.975; 3).
    half = 3.182446305284263 * math.sqrt(14 / 12)
    assert row.value == 3
    assert (row.low, row.high) == pytest.approx((3 - half, 3 + half), rel=1e-11)
    assert row.samples == [1.0, 2.0, 3.0, 6.0]
    row = one("time", [7.0, 1.0, 2.0, 4.0, 3.0, 5.0])
    assert (row.low, row.value, row.high) == (2.25, 3.5, 4.75)
    for metric in ("bias", "flops", "peak_memory"):
        row = one(metric, [5.0])
        assert (row.value, math.isnan(row.low), math.isnan(row.high)) == (5, True, True), metric


def test_summaries_do_not_mix_rows() -> None:
    metrics = ["time", "bias", "bias", "", "time", "of-a-later-version", "bias", "flops"]
    samples = [[3.0, 1.0, 8.0], [4.0], [1.0, 3.0], None, [6.0], [2.0, 4.0], [5.0, 5.0], [9.0]]
    table = summaries(metrics, samples)
    assert table["metric"].to_list() == metrics
    assert table["samples"].to_list() == samples
    assert table["unit"].to_list() == ["s", "", "", "", "s", "", "", "FLOP"]
    row: Any
    for row in table.itertuples():
        single = one(row.metric, row.samples or [math.nan])
        numbers = (row.value, row.low, row.high)
        assert numbers == pytest.approx((single.value, single.low, single.high), nan_ok=True)


def test_runs_are_in_the_order_of_their_start(tmp_path: Path) -> None:
    names = []
    for day in (3, 1, 2):
        path = write_run(tmp_path)
        names.append(path.rename(path.with_name(f"2026010{day}T000000-abcdef.jsonl")).stem)
    assert list(dict.fromkeys(load_sound(tmp_path)["run"])) == sorted(names)


def test_schema_1_is_read(tmp_path: Path) -> None:
    axes = cell().as_dict()
    del axes["trained"]
    old = {"event": "result", "at": "now", "id": "x", "cell": axes, "status": "ok", "reason": ""}
    score = old | {"stage": "score", "traceback": "", "samples": {"bias": [1.0]}}
    time = old | {"stage": "time", "samples": {}, "status": "timeout", "reason": "not done"}
    skipped = old | {"id": "y", "stage": "score", "status": "skipped", "samples": {}}
    start = START | {"schema": 1, "environment": {"commit": "", "changes": "", "machine": "old"}}
    events = [start, score, time, skipped, {"event": "end", "at": "later"}]
    path = write_events(tmp_path / "runs" / "old.jsonl", events)
    table = load_sound(tmp_path)
    measured, not_measured = (row for row in table.itertuples())
    assert (measured.value, measured.outcome, measured.reason) == (1.0, "timeout", "not done")
    assert (measured.schema, measured.fingerprint, measured.notes) == (1, "", "")
    assert (measured.trained, measured.machine) == (0, "old")
    assert (not_measured.metric, not_measured.outcome) == ("", "skipped")
    assert list(read_run(path).cells[1].stages) == ["plan"]
