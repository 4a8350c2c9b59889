"""A run that was interrupted goes on; any other begins anew."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.cell import Cell
from harness.matrix.outcome import Outcome, Status
from harness.matrix.plan import Planned
from harness.running.executor import Settings
from harness.running.processes import Limits
from harness.running.resume import RunSession, begin
from harness.running.runner import run
from harness.store.journal import Journal, Progress, Result
from harness.store.runs import read_run

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
    """Leaves a run behind that was killed after these scores."""
    journal = start(store).journal
    for result in results:
        journal.results("score", [result], limits=LIMITED)
    journal.close()
    return journal.path


def scored(estimator: str, **outcome: Any) -> Result:
    usual: dict[str, Any] = {"status": Status.OK}
    return Result(cell(estimator), Outcome(**usual | outcome), {"bias": [0.5]})


def test_a_new_run_has_its_skipped_cells(tmp_path: Path) -> None:
    beginning = start(tmp_path)
    assert (beginning.finished, beginning.told) == ({}, [])
    (skipped,) = read_run(beginning.journal.path).cells
    assert (skipped.status, skipped.reason) == (Status.SKIPPED, "its order is above the depth")


def test_an_interrupted_run_goes_on_in_its_file(tmp_path: Path) -> None:
    path = interrupt(tmp_path, scored("maml"))
    before = path.read_bytes()
    beginning = start(tmp_path)
    assert beginning.journal.path == path
    assert beginning.told == [f"Going on with {path}, which was interrupted after 1 cells."]
    assert path.read_bytes().startswith(before)
    added = [json.loads(line) for line in path.read_bytes()[len(before) :].splitlines()]
    assert [event["event"] for event in added] == ["resume"]
    assert added[0]["environment"]["packages"]["torch"]
    found = beginning.stage(cell("maml").id, "score", LIMITS)
    assert found is not None
    assert found.samples == {"bias": [0.5]}
    assert beginning.stage(cell("maml").id, "time", LIMITS) is None
    assert beginning.stage(cell("fomaml").id, "score", LIMITS) is None


def test_why_cells_are_skipped_does_not_matter(tmp_path: Path) -> None:
    """Another executor has other words for it, and other devices."""
    path = interrupt(tmp_path, scored("maml"))
    for_others = [Planned(PLAN[0].cell, "nobody has its device"), *PLAN[1:]]
    assert start(tmp_path, for_others).journal.path == path


def test_killed_between_start_and_plan(tmp_path: Path) -> None:
    path = interrupt(tmp_path)
    first = path.read_bytes().split(b"\n")[0] + b"\n"
    path.write_bytes(first)
    start(tmp_path).journal.close()
    assert [found.status for found in read_run(path).cells] == [Status.SKIPPED]


@pytest.mark.parametrize(
    "other",
    [
        {"plan": PLAN[:3]},
        {"plan": [*PLAN[:3], Planned(PLAN[3].cell, "not here")]},
        {"samples": 8},
        {"fresh": True},
        {"plugins": (str(Path(__file__).with_name("support") / "faulty.py"),)},
    ],
    ids=["plan", "skips", "samples", "fresh", "plugins"],
)
def test_another_run_begins_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    path = interrupt(tmp_path, scored("maml"))
    before = path.read_bytes()
    beginning = start(tmp_path, **other)
    assert beginning.journal.path != path
    assert beginning.finished == {}
    assert path.read_bytes() == before


def test_a_changed_plug_in_begins_anew(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("one = 1\n", encoding="utf-8")
    first = start(tmp_path, plugins=(str(plugin),)).journal
    first.close()
    again = start(tmp_path, plugins=(str(plugin),)).journal
    assert again.path == first.path
    again.close()
    plugin.write_text("one = 2\n", encoding="utf-8")
    other = start(tmp_path, plugins=(str(plugin),))
    assert other.journal.path != first.path
    told = f"{first.path} was interrupted with other code, packages or machine."
    assert other.told == [told]


def test_a_whole_run_is_not_gone_on_with(tmp_path: Path) -> None:
    interrupt(tmp_path)
    journal = start(tmp_path).journal
    journal.end()
    assert start(tmp_path).journal.path != journal.path


def test_a_run_that_another_process_writes_is_let_be(tmp_path: Path) -> None:
    theirs = start(tmp_path).journal
    ours = start(tmp_path)
    assert ours.journal.path != theirs.path
    assert ours.finished == {}
    assert ours.told == [f"Another run of the same cells is at work on {theirs.path}."]


def test_a_broken_run_is_let_be(tmp_path: Path) -> None:
    path = interrupt(tmp_path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "results", "stage": "score", "results": 3}\n')
    before = path.read_bytes()
    beginning = start(tmp_path)
    assert beginning.journal.path != path
    assert beginning.told[0].startswith(f"{path} was interrupted, and cannot be read: ")
    assert path.read_bytes() == before


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path)
    with pytest.raises(BlockingIOError):
        Journal(journal.path, new=False)
    journal.close()
    Journal(journal.path, new=False).close()


@pytest.mark.parametrize("torn", [b'{"event": "resu', b"\x00" * 700, b"{}"])
def test_torn_line_is_set_aside_and_told(tmp_path: Path, torn: bytes) -> None:
    path = interrupt(tmp_path, scored("maml"))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    beginning = start(tmp_path)
    beside = path.with_suffix(".torn")
    told = f"It had broken or torn lines, which are set aside in {beside}."
    assert beginning.told[1] == told
    assert beside.read_bytes() == torn + b"\n"
    assert path.read_bytes().startswith(whole + b'{"event": "resume"')
    assert list(beginning.finished) == [plan.cell.id for plan in PLAN[:2]]


def test_broken_lines_are_set_aside_and_the_lock_is_kept(tmp_path: Path) -> None:
    path = interrupt(tmp_path, scored("maml"), scored("fomaml"))
    first, skips, one, two = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + skips + one[:40] + b"\n" + two + b"{torn")
    beginning = start(tmp_path)
    beside = path.with_suffix(".torn")
    assert beside.read_bytes() == one[:40] + b"\n{torn\n"
    assert path.read_bytes().startswith(first + skips + two + b'{"event": "resume"')
    assert cell("maml").id not in beginning.finished
    assert not read_run(path).faults
    assert {file.suffix for file in path.parent.iterdir()} == {".jsonl", ".torn"}
    with pytest.raises(BlockingIOError):
        Journal(path, new=False)


def test_an_older_run_of_this_state_is_found_behind_others(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("one = 1\n", encoding="utf-8")
    options: dict[str, Any] = {"plugins": (str(plugin),)}
    first = start(tmp_path, **options).journal
    first.close()
    plugin.write_text("one = 2\n", encoding="utf-8")
    start(tmp_path, **options).journal.close()
    plugin.write_text("one = 1\n", encoding="utf-8")
    assert start(tmp_path, **options).journal.path == first.path


def test_unknown_fields_survive(tmp_path: Path) -> None:
    path = interrupt(tmp_path, scored("maml"))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["of_a_later_version"] = {"deep": [1, 2]}
        for result in line.get("results", []):
            result["also"] = "here"
    strange = json.dumps({"event": "an event of a later version", "at": "now"})
    text = "\n".join([*map(json.dumps, lines), strange]) + "\n"
    path.write_text(text, encoding="utf-8")
    beginning = start(tmp_path)
    assert path.read_text(encoding="utf-8").startswith(text)
    assert beginning.stage(cell("maml").id, "score", LIMITS)


@pytest.mark.parametrize(
    ("outcome", "limits", "again"),
    [
        ({"status": Status.FAILED, "reason": "KeyError: x"}, LIMITS, False),
        ({"status": Status.DIVERGED, "reason": "not finite"}, LIMITS, False),
        ({"status": Status.TIMEOUT, "reason": "late"}, LIMITS, False),
        ({"status": Status.TIMEOUT, "reason": "late"}, Limits(61, 2e9), True),
        ({"status": Status.TIMEOUT, "reason": "late"}, Limits(59, 3e9), False),
        ({"status": Status.OUT_OF_MEMORY, "reason": "much"}, LIMITS, False),
        ({"status": Status.OUT_OF_MEMORY, "reason": "much"}, Limits(60, 3e9), True),
        ({"status": Status.CRASHED, "reason": "SIGSEGV"}, LIMITS, False),
        ({"status": Status.CRASHED, "reason": "SIGKILL", "transient": True}, LIMITS, True),
    ],
    ids=str,
)
def test_what_is_worth_a_second_try(
    tmp_path: Path, outcome: dict[str, Any], limits: Limits, again: bool
) -> None:
    interrupt(tmp_path, scored("maml", **outcome))
    found = start(tmp_path).stage(cell("maml").id, "score", limits)
    assert (found is None) == again


def test_only_what_lacks_is_measured(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    beginning = start(whole)
    run(PLAN, beginning, SETTINGS)
    wanted = {found.id: found.samples for found in read_run(beginning.journal.path).cells}

    class Enough(Exception):
        pass

    def stop_after(count: int) -> Any:
        def tell(progress: Progress) -> None:
            nonlocal count
            count -= 1
            if not count:
                raise Enough

        return tell

    store = tmp_path / "stopped"
    lines: list[bytes] = []
    for told in (1, 1, 2, 1, 100):
        beginning = start(store)
        path = beginning.journal.path
        with suppress(Enough):
            run(PLAN, beginning, SETTINGS, stop_after(told))
        lines = path.read_bytes().splitlines()
    assert [file.name for file in (store / "runs").iterdir()] == [path.name]
    events = [json.loads(line) for line in lines]
    assert events[-1]["event"] == "end"
    assert [event["event"] for event in events].count("resume") == 4
    pairs = [(r["id"], e["stage"]) for e in events if e["event"] == "results" for r in e["results"]]
    assert len(pairs) == len(set(pairs)) == 7  # one skipped, three scored and timed
    found = {each.id: each.samples for each in read_run(path).cells}
    for name, samples in wanted.items():
        assert found[name].keys() == samples.keys()
        for metric in samples.keys() - {"resident_memory"}:
            if not metric.startswith("time"):
                assert found[name][metric] == samples[metric]


def test_timing_is_done_in_turns_again_if_one_of_the_group_lacks_it(tmp_path: Path) -> None:
    beginning = start(tmp_path)
    run(PLAN, beginning, SETTINGS)
    path = beginning.journal.path
    kept = []
    for line in path.read_bytes().splitlines(keepends=True)[:-1]:
        event = json.loads(line)
        if event.get("stage") == "time":
            event["results"] = event["results"][:2]
        kept.append(json.dumps(event).encode() + b"\n")
    path.write_bytes(b"".join(kept))
    beginning = start(tmp_path)
    run(PLAN, beginning, SETTINGS)
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    timings = [event for event in events if event.get("stage") == "time"]
    assert [len(event["results"]) for event in timings] == [2, 3]
    newest = {result["id"]: result["samples"]["time"] for result in timings[1]["results"]}
    cells = {found.id: found for found in read_run(path).cells}
    for name, times in newest.items():
        assert cells[name].samples["time"] == times
