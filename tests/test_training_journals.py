"""Journals of trainings: what is read back, from whole, torn, broken and foreign files."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from harness.cell import AXES
from harness.store.events import parse_event
from harness.store.journal import Journal
from harness.store.trainings import COLUMNS, FOLDER, Training, TrainingJournal, trainings

ENVIRONMENT = {"commit": "c0ffee", "changes": "", "machine": "box", "fingerprint": "f00d"}
OUTER: dict[str, Any] = {"optimiser": "adam", "learning_rate": 0.001, "meta_batch": 4, "steps": 20}
AXES_OF_IT: dict[str, Any] = {
    **{"estimator": "binom(order=2)", "task": "glyphs:5way-1shot", "model": "conv4-32"},
    **{"depth": 5, "step_size": 0.01, "device": "cpu", "dtype": "float32", "seed": 3},
}
TRAINING = Training(**AXES_OF_IT, outer=OUTER)
LOSSES = [1.0, 2.0, 3.0, 6.0]
START: dict[str, Any] = {"event": "start", "at": "now", "schema": 1, "environment": ENVIRONMENT}
START |= {"training": vars(TRAINING)}
EVALUATION = {"event": "evaluation", "at": "now", "step": 1, "split": "train", "seconds": 1.0}
EVALUATION |= {"samples": {"outer_loss": [0.5]}}
END = {"event": "end", "at": "now"}


def begin(store: Path, **changed: Any) -> TrainingJournal:
    journal = TrainingJournal.create(store)
    journal.start(ENVIRONMENT, replace(TRAINING, **changed))
    return journal


def write(store: Path, *lines: Any, after: bytes = b"", name: str = "one.jsonl") -> Path:
    """Write a file of these lines, objects as JSON."""
    path = store / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts) + after)
    return path


def but(**changed: Any) -> dict[str, Any]:
    """The start of another training."""
    return START | {"training": vars(TRAINING) | changed}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.evaluation(0, "validation", {"outer_loss": LOSSES, "accuracy": [0.2, 0.4]}, seconds=1)
    journal.evaluation(20, "test", {"accuracy": [1.0, 0.5], "novel": [2]}, seconds=2)
    journal.end()
    table, problems = trainings(tmp_path)
    assert problems == []
    assert set(AXES) - set(table.columns) == {"tasks", "trained"}
    rows = {(row.step, row.split, row.metric): row for row in table.itertuples()}
    assert len(rows) == len(table) == 4
    loss: Any = rows[0, "validation", "outer_loss"]
    low, high = stats.t.interval(0.95, 3, loc=3.0, scale=stats.sem(LOSSES))
    assert (loss.value, loss.samples, loss.unit) == (3.0, LOSSES, "")
    assert (loss.low, loss.high) == (pytest.approx(low), pytest.approx(high))
    assert (loss.training, loss.commit, loss.machine) == (journal.path.stem, "c0ffee", "box")
    assert (loss.changes, loss.fingerprint, loss.started[:2]) == ("", "f00d", "20")
    assert {name: getattr(loss, name) for name in AXES_OF_IT} == AXES_OF_IT
    assert loss.outer == "learning_rate=0.001, meta_batch=4, optimiser=adam, steps=20"
    novel: Any = rows[20, "test", "novel"]
    assert (novel.value, novel.unit) == (2.0, "")
    assert math.isnan(novel.low)
    assert rows[20, "test", "accuracy"].samples == [1.0, 0.5]


def test_no_folder_is_an_empty_table(tmp_path: Path) -> None:
    for store in (tmp_path, tmp_path / "missing"):
        table, problems = trainings(store)
        assert (len(table), problems, tuple(table.columns)) == (0, [], COLUMNS)
    assert not (tmp_path / "missing").exists()


def test_a_training_under_way_with_an_evaluation_made_again_and_numbers_not_finite(
    tmp_path: Path,
) -> None:
    journal = begin(tmp_path)
    for value in (1.0, 2.0, math.inf):
        journal.evaluation(1, "train", {"outer_loss": [value]}, seconds=1)
        assert trainings(tmp_path)[0]["value"].to_list() == [value]
    journal.evaluation(2, "train", {"outer_loss": [math.nan, 1.0]}, seconds=1)
    journal.end()
    table, problems = trainings(tmp_path)
    assert problems == []
    assert math.isnan(table["value"][1])


def test_torn_and_broken_lines_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, START, EVALUATION, after=b'{"event": "eval')
    write(tmp_path, name="nothing.jsonl")
    write(tmp_path, after=b'{"event": "start", "at": "20', name="started.jsonl")
    table, problems = trainings(tmp_path)
    assert (len(table), problems) == (1, [])
    lines: list[Any] = [b"\x00\xff", b'{"event": "evaluation", "step": 1', b"[1]"]
    odd: list[dict[str, Any]] = [
        {"step": -1},
        {"step": True},
        {"split": "holdout"},
        {"samples": [1]},
    ]
    odd += [{"samples": {"a": bad}} for bad in ([], ["1"], [True], 1.0)]
    for line in [*lines, *(EVALUATION | one for one in odd)]:
        write(tmp_path, START, line, EVALUATION | {"step": 2}, {"event": "of a later version"}, END)
        table, (problem,) = trainings(tmp_path)
        assert table["step"].to_list() == [2], line
        assert problem.what.startswith("line 2"), line


def test_a_file_that_is_no_training_is_named(tmp_path: Path) -> None:
    write(tmp_path, START, EVALUATION)
    odd: list[tuple[list[Any], str]] = [
        *(([{"schema": 1}], "start"), ([b"no JSON"], "start"), ([EVALUATION, END], "start")),
        ([START | {"schema": 2}, EVALUATION], "schema 2"),
        *(([START | {"environment": 1}], "environment"), ([START | {"environment": {}}], "commit")),
        *(([START | {"training": {}}], "estimator"), ([but(depth=5.0)], "depth")),
        *(([but(seed=-1)], "seed"), ([but(outer=3)], "outer")),
    ]
    for lines, named in odd:
        bad = write(tmp_path, *lines, name="bad.jsonl")
        table, (problem,) = trainings(tmp_path)
        assert (len(table), problem.path) == (1, bad)
        assert named in problem.what


def test_foreign_files(tmp_path: Path) -> None:
    write(tmp_path, START, EVALUATION)
    write(tmp_path, b"anything", name="notes.txt")
    write(tmp_path, b"anything", name="one.torn")
    (tmp_path / FOLDER / "folder.jsonl").mkdir()
    run = Journal.create(tmp_path)
    run.start(ENVIRONMENT, cells=0)
    run.end()
    run.path.replace(tmp_path / FOLDER / "run.jsonl")
    table, problems = trainings(tmp_path)
    assert [problem.path.name for problem in problems] == ["folder.jsonl", "run.jsonl"]
    assert len(table) == 1
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / FOLDER).touch()
    (problem,) = trainings(tmp_path / "file")[1]
    assert "Not a directory" in problem.what


# Writes evaluations for ever, and prints those that have been written.
_WRITER = """
import sys
from pathlib import Path
from tests.test_training_journals import begin
journal = begin(Path(sys.argv[1]))
print(journal.path, flush=True)
for step in range(10**9):
    journal.evaluation(step, "train", {"outer_loss": [float(step)] * 400}, seconds=0)
    print(step, flush=True)
"""


def test_killed_in_the_middle_and_gone_on_with(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        path = Path(process.stdout.readline().strip())
        while process.stdout.readline().strip() != "50":
            pass
        with pytest.raises(BlockingIOError):
            TrainingJournal(path, new=False)
        os.kill(process.pid, signal.SIGKILL)
        last = max(map(int, process.stdout.read().split()), default=50)
    table, problems = trainings(tmp_path)
    steps = table["step"].to_list()
    assert steps == [*range(len(steps))]
    assert steps[-1] in (last, last + 1)  # all that was told of, and at most what was under way
    assert len(problems) <= 1
    journal = TrainingJournal(path, new=False)
    journal.set_aside(lambda line: parse_event(line) is not None)
    journal.resume(ENVIRONMENT)
    journal.evaluation(len(steps), "test", {"outer_loss": [0.0]}, seconds=0)
    journal.end()
    again, problems = trainings(tmp_path)
    assert problems == []
    assert again["step"].to_list() == [*steps, len(steps)]
