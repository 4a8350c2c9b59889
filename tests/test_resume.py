"""A run that was interrupted goes on; any other begins anew."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cell import Cell
from harness.matrix.outcome import Outcome, Status
from harness.matrix.plan import Planned
from harness.running.executor import Settings
from harness.running.processes import Limits
from harness.running.resume import RunSession, begin, finished
from harness.running.runner import run
from harness.store.journal import Journal, Progress, Result
from harness.store.runs import read_run
from tests.support.commands import FAULTY, events, stages

LIMITS = Limits(seconds=60, memory=2e9)
LIMITED = {"seconds": 60.0, "memory": 2e9}
SETTINGS = Settings(jobs=1, samples=6)


def cell(estimator: str, depth: int = 2) -> Cell:
    return Cell.of(estimator=estimator, task="quadratic", model="linear", depth=depth, num_tasks=1)


PLAN = [
    Planned(cell("binom(order=9)"), "its order is above the depth"),
    *(Planned(cell(name)) for name in ("maml", "fomaml", "reptile")),
]


def start(store: Path, plan: list[Planned] = PLAN, **options: Any) -> RunSession:
    return begin(store, plan, samples=options.pop("samples", 6), **options)


def interrupt(store: Path, *results: Result) -> Path:
    """Leave a run behind that was killed after these scores."""
    journal = start(store).journal
    for result in results:
        journal.results("score", [result], limits=LIMITED)
    journal.close()
    return journal.path


def scored(estimator: str, status: Status = Status.OK, **outcome: Any) -> Result:
    return Result(cell(estimator), Outcome(status, **outcome), {"bias": [0.5]})


def test_an_interrupted_run_goes_on_in_its_file(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert (first.finished, first.lines) == ({}, [])
    path = first.journal.path
    (skipped,) = read_run(path).cells
    assert (skipped.status, skipped.reason) == (Status.SKIPPED, "its order is above the depth")
    first.journal.results("score", [scored("maml")], limits=LIMITED)
    first.journal.close()
    before = path.read_bytes()

    # Another executor gives other reasons why cells are skipped.
    session = start(tmp_path, [Planned(PLAN[0].cell, "nobody has its device"), *PLAN[1:]])
    assert session.journal.path == path
    assert len(session.lines) == 1
    assert path.read_bytes().startswith(before)
    (added,) = map(json.loads, path.read_bytes()[len(before) :].splitlines())
    assert added["event"] == "resume"
    assert added["environment"]["packages"]["torch"]
    known = session.stage(cell("maml").id, "score", LIMITS)
    assert known is not None
    assert known.samples == {"bias": [0.5]}
    assert session.stage(cell("maml").id, "time", LIMITS) is None
    assert session.stage(cell("fomaml").id, "score", LIMITS) is None


def test_another_run_begins_anew(tmp_path: Path) -> None:
    path = interrupt(tmp_path, scored("maml"))
    before = path.read_bytes()
    others: dict[str, dict[str, Any]] = {
        "plan": {"plan": PLAN[:3]},
        "skips": {"plan": [*PLAN[:3], Planned(PLAN[3].cell, "not here")]},
        "samples": {"samples": 8},
        "fresh": {"fresh": True},
        "plugins": {"plugins": (str(FAULTY),)},
    }
    for name, other in others.items():
        session = start(tmp_path, **other)
        assert session.journal.path != path, name
        assert session.finished == {}, name
        session.journal.end()
    assert path.read_bytes() == before


def test_the_newest_run_of_the_same_code_goes_on(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    paths = []
    for text in ("one = 1\n", "one = 2\n", "one = 1\n"):
        plugin.write_text(text, encoding="utf-8")
        session = start(tmp_path, plugins=(str(plugin),))
        session.journal.close()
        paths.append(session.journal.path)
        if text == "one = 2\n":
            assert str(paths[0]) in session.lines[0]
    assert paths[2] == paths[0] != paths[1]


def test_a_finished_run_does_not_go_on(tmp_path: Path) -> None:
    path = interrupt(tmp_path)
    assert finished(tmp_path, PLAN, SETTINGS) is None
    start(tmp_path).journal.end()
    assert finished(tmp_path, PLAN, SETTINGS) == path
    assert finished(tmp_path, PLAN, replace(SETTINGS, samples=8)) is None
    session = start(tmp_path)
    session.journal.results("score", [scored("maml", Status.FAILED)])
    session.journal.end()
    assert session.journal.path != path
    assert finished(tmp_path, PLAN, SETTINGS) == path


def test_a_run_that_is_written_or_broken_is_left_as_it_is(tmp_path: Path) -> None:
    other = start(tmp_path).journal
    session = start(tmp_path)
    assert session.journal.path != other.path
    assert session.finished == {}
    assert str(other.path) in session.lines[0]
    with pytest.raises(BlockingIOError):
        Journal(other.path, new=False)
    other.close()
    session.journal.end()

    with other.path.open("a", encoding="utf-8") as file:
        file.write('{"event": "results", "stage": "score", "results": 3}\n')
    before = other.path.read_bytes()
    session.journal.path.unlink()
    session = start(tmp_path)
    assert session.journal.path != other.path
    assert str(other.path) in session.lines[0]
    assert other.path.read_bytes() == before


def test_broken_lines_are_set_aside(tmp_path: Path) -> None:
    for number, torn in enumerate((b'{"event": "resu', b"\x00" * 700, b"{}")):
        store = tmp_path / str(number)
        path = interrupt(store, scored("maml"))
        whole = path.read_bytes()
        path.write_bytes(whole + torn)
        session = start(store)
        beside = path.with_suffix(".torn")
        assert str(beside) in session.lines[1]
        assert beside.read_bytes() == torn + b"\n"
        assert path.read_bytes().startswith(whole + b'{"event": "resume"')
        assert list(session.finished) == [plan.cell.id for plan in PLAN[:2]]

    store = tmp_path / "before its plan"
    path = interrupt(store)
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n")
    start(store).journal.close()
    assert [each.status for each in read_run(path).cells] == [Status.SKIPPED]

    path = interrupt(tmp_path, scored("maml"), scored("fomaml"))
    first, skips, one, two = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + skips + one[:40] + b"\n" + two + b"{torn")
    session = start(tmp_path)
    assert path.with_suffix(".torn").read_bytes() == one[:40] + b"\n{torn\n"
    assert path.read_bytes().startswith(first + skips + two + b'{"event": "resume"')
    assert cell("maml").id not in session.finished
    assert not read_run(path).faults
    with pytest.raises(BlockingIOError):  # it is locked all along
        Journal(path, new=False)


def test_unknown_fields_survive(tmp_path: Path) -> None:
    path = interrupt(tmp_path, scored("maml"))
    lines = events(path)
    for line in lines:
        line["of_a_later_version"] = {"deep": [1, 2]}
        for result in line.get("results", []):
            result["also"] = "here"
            del result["transient"]  # and of an earlier version
    strange = json.dumps({"event": "an event of a later version", "at": "now"})
    text = "\n".join([*map(json.dumps, lines), strange]) + "\n"
    path.write_text(text, encoding="utf-8")
    session = start(tmp_path)
    assert path.read_text(encoding="utf-8").startswith(text)
    assert session.stage(cell("maml").id, "score", LIMITS)


def test_which_results_are_worth_another_try(tmp_path: Path) -> None:
    more_time, more_memory = Limits(61, 2e9), Limits(60, 3e9)
    cases: list[tuple[Result, Limits, bool]] = [
        (scored("maml", Status.FAILED), LIMITS, False),
        (scored("maml", Status.DIVERGED), LIMITS, False),
        (scored("maml", Status.TIMEOUT), LIMITS, False),
        (scored("maml", Status.TIMEOUT), more_time, True),
        (scored("maml", Status.TIMEOUT), more_memory, False),
        (scored("maml", Status.OUT_OF_MEMORY), LIMITS, False),
        (scored("maml", Status.OUT_OF_MEMORY), more_memory, True),
        (scored("maml", Status.CRASHED), LIMITS, False),
        (scored("maml", Status.CRASHED, transient=True), LIMITS, True),
    ]
    for number, (result, limits, again) in enumerate(cases):
        store = tmp_path / str(number)
        interrupt(store, result)
        found = start(store).stage(cell("maml").id, "score", limits)
        assert (found is None) == again, result


class Enough(Exception):
    pass


def stop_after(count: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        nonlocal count
        count -= 1
        if not count:
            raise Enough

    return on_progress


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    session = start(tmp_path / "whole")
    run(PLAN, session, SETTINGS)
    expected = {each.id: each.samples for each in read_run(session.journal.path).cells}
    for count in (1, 2, 100):
        session = start(tmp_path / "stopped")
        path = session.journal.path
        with suppress(Enough):
            run(PLAN, session, SETTINGS, stop_after(count))
    assert [*(tmp_path / "stopped" / "runs").iterdir()] == [path]
    written = events(path)
    assert written[-1]["event"] == "end"
    assert [event["event"] for event in written].count("resume") == 2
    pairs = stages(path)
    assert len(pairs) == len(set(pairs)) == 7  # one skipped, three scored and timed
    measured = {each.id: each.samples for each in read_run(path).cells}
    for name, samples in expected.items():
        assert measured[name].keys() == samples.keys()
        for metric in samples.keys() - {"resident_memory"}:
            if not metric.startswith("time"):
                assert measured[name][metric] == samples[metric]

    # A group is timed together, also if the times of one cell are missing.
    lines = []
    for event in written[:-1]:
        if event.get("stage") == "time":
            event["results"] = event["results"][:2]
        lines.append(json.dumps(event).encode() + b"\n")
    path.write_bytes(b"".join(lines))
    run(PLAN, start(tmp_path / "stopped"), SETTINGS)
    timings = [event for event in events(path) if event.get("stage") == "time"]
    assert [len(event["results"]) for event in timings] == [2, 3]
    newest = {result["id"]: result["samples"]["time"] for result in timings[1]["results"]}
    cells = {each.id: each for each in read_run(path).cells}
    assert {name: cells[name].samples["time"] for name in newest} == newest
