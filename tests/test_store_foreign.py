"""What a store holds that no run of this version has left whole: torn, foreign, unreadable."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest

from harness.store.journal import SCHEMA, Journal, Progress
from harness.store.runs import last_progress, read_run
from harness.store.table import StoreError, load, load_sound
from tests.support.store_runs import (
    AXES,
    ENVIRONMENT,
    RESULT,
    RESULTS,
    START,
    cell,
    fingerprint,
    results,
    write_events,
    write_run,
)


def test_torn_and_empty_remains_of_killed_runs_do_not_count(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (tmp_path / "runs" / "begun.jsonl").touch()  # killed before its first line
    whole = load_sound(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content + b"\0" * 4096)  # as a power cut leaves it
    pd.testing.assert_frame_equal(load_sound(tmp_path), whole)
    lines = content.splitlines(keepends=True)
    for torn in (1, 20, 200):
        path.write_bytes(b"".join(lines[:4]) + lines[4][:torn])
        before = fingerprint(tmp_path)
        table, problems = load(tmp_path)
        assert problems == []
        assert set(table["estimator"]) == {"binom(order=9)", "maml", "fomaml"}, torn
        assert fingerprint(tmp_path) == before


def test_a_run_that_has_only_begun_has_no_rows(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path)
    journal.start(ENVIRONMENT, cells=1)
    assert last_progress(journal.path) is None
    assert read_run(journal.path).cells == []
    assert load_sound(tmp_path).empty
    journal.progress(Progress(1.0, 4.0, "it"))
    journal.progress(Progress(2.0, 4.0, "more"))
    assert last_progress(journal.path) == Progress(2.0, 4.0, "more")


def test_broken_lines_are_problems_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in ("{torn", "[1, 2]", "null", "", json.dumps(results(samples={"bias": [10**400]}))):
        path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", encoding="utf-8")
        before = fingerprint(tmp_path)
        table, problems = load(tmp_path)
        assert [str(problem) for problem in problems] == [f"{path}: line 3 is not a JSON object"]
        assert set(table["estimator"]) == {"binom(order=9)", "maml", "fomaml"}, line
        with pytest.raises(StoreError, match="line 3 is not a JSON object"):
            load_sound(tmp_path)
        assert fingerprint(tmp_path) == before


ODD = AXES | {"depth": "5"}
FOREIGN: list[tuple[list[dict[str, Any]], str]] = [
    ([{"event": "end"}], "start of a run"),
    ([{"hello": "world"}], "start of a run"),
    ([START | {"schema": 999}], f"999, this version reads 1 to {SCHEMA}"),
    ([START | {"schema": "2"}], "schema"),
    ([START | {"environment": {}}, results()], "line 1: commit"),
    ([START | {"environment": ENVIRONMENT | {"machine": 1}}], "line 1: machine"),
    ([START, {"no": "event"}], "line 2: event"),
    ([START, RESULTS], "line 2: 'results'"),
    ([START, results(), results(status="fine")], "line 3: 'fine'"),
    ([START, results(cell={})], "line 2: estimator"),
    ([START, results(cell=ODD)], "line 2: depth"),
    ([START, results(cell=AXES | {"seed": 2**63})], "line 2: seed"),
    ([START, results(cell=3)], "line 2: cell"),
    ([START, results(id=3)], "line 2: id"),
    ([START, results(reason=None)], "line 2: reason"),
    ([START, results(notes=[1])], "line 2: a note"),
    ([START, results(samples=[1.0])], "line 2: samples"),
    ([START, results(samples={"bias": ["much"]})], "line 2: samples of bias"),
    ([START, results(samples={"bias": [None]})], "line 2: samples of bias"),
    ([START, results(samples={"bias": 1.0})], "line 2: samples of bias"),
    ([START, results(samples={"bias": []})], "line 2: samples of bias"),
]


def test_foreign_files_are_named_and_the_others_read(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = tmp_path / "runs" / "foreign.jsonl"
    for events, named in FOREIGN:
        write_events(path, events)
        before = fingerprint(tmp_path)
        table, problems = load(tmp_path)
        assert [problem.path for problem in problems] == [path], named
        assert named in problems[0].what
        assert len(table) == 8
        assert fingerprint(tmp_path) == before
    with pytest.raises(StoreError, match=r"foreign\.jsonl"):
        load_sound(tmp_path)
    for content in (b"\xff\xfe\x00binary\n", b"\x00" * 64, b"hello\n"):
        path.write_bytes(content)
        assert [problem.path for problem in load(tmp_path)[1]] == [path]


def test_missing_and_empty_stores_are_refused(tmp_path: Path) -> None:
    for store in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StoreError, match=f"no results in {store}"):
            load(store)
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match=r"cannot read .*/runs: Not a directory"):
        load(tmp_path)


def test_journals_of_one_moment_do_not_meet(tmp_path: Path) -> None:
    assert len({Journal.create(tmp_path).path for _ in range(20)}) == 20


def test_infinite_samples_and_odd_text_are_read(tmp_path: Path) -> None:
    samples = {"bias": [1.0, math.inf], "time": [math.nan, 1.0, 2.0], "flops": [-math.inf]}
    odd = results(samples=samples, reason="file \udcff")
    path = write_events(tmp_path / "runs" / "x.jsonl", [START, odd])
    assert "Infinity" in path.read_text(encoding="utf-8")
    table = load_sound(tmp_path)
    rows: dict[str, Any] = {str(row.metric): row for row in table.itertuples()}
    assert rows["bias"].value == math.inf
    assert rows["bias"].samples == [1.0, math.inf]
    assert math.isnan(rows["bias"].low)
    assert math.isnan(rows["time"].value)
    assert rows["flops"].value == -math.inf
    assert set(table["reason"]) == {"file ?"}


def test_additions_of_a_later_version_do_no_harm(tmp_path: Path) -> None:
    result = RESULT | {"cell": cell().as_dict() | {"curvature": "high"}, "more": {"x": 1}}
    start = START | {"environment": ENVIRONMENT | {"more": {"x": [1]}}, "more": 1}
    odd = {"event": "of-a-later-version", "at": "now"}
    events = [start, odd, RESULTS | {"results": [result], "more": 1}]
    path = write_events(tmp_path / "runs" / "x.jsonl", events)
    assert load_sound(tmp_path)["value"].to_list() == [1.0]
    run = read_run(path)
    assert run.environment["more"] == {"x": [1]}
    assert run.cells[0].axes["curvature"] == "high"


def test_files_that_cannot_be_opened_are_problems(tmp_path: Path) -> None:
    write_run(tmp_path)
    runs = tmp_path / "runs"
    (runs / "folder.jsonl").mkdir()
    (runs / "gone.jsonl").symlink_to("nowhere")
    (runs / "round.jsonl").symlink_to("round.jsonl")
    for other in ("x.torn", "x.parquet", "notes.txt"):
        (runs / other).write_text("not ours")
    table, problems = load(tmp_path)
    assert len(table) == 8
    assert [str(problem) for problem in problems] == [
        f"{runs / 'folder.jsonl'}: cannot be read: Is a directory",
        f"{runs / 'gone.jsonl'}: cannot be read: No such file or directory",
        f"{runs / 'round.jsonl'}: cannot be read: Too many levels of symbolic links",
    ]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user whom permissions bind, which this process then is."""
    with TemporaryDirectory() as name:
        super_user = os.geteuid() == 0
        if super_user:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        yield Path(name)
        if super_user:
            os.seteuid(0)


def test_files_without_permission_are_problems(nobody: Path) -> None:
    write_run(nobody)
    secret = write_run(nobody)
    secret.chmod(0)
    table, problems = load(nobody)
    assert table["run"].nunique() == 1
    assert [str(problem) for problem in problems] == [
        f"{secret}: cannot be read: Permission denied"
    ]
    secret.chmod(0o600)
    (nobody / "runs").chmod(0)
    with pytest.raises(StoreError, match=r"cannot read .*/runs: Permission denied"):
        load(nobody)
    (nobody / "runs").chmod(0o700)
