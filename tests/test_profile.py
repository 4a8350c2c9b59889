"""A profile: its files agree with one another and with other measurements."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from estimators import create
from estimators.base.errors import OptionError, UserError
from estimators.base.phases import Phase, phase
from estimators.base.registry import ESTIMATORS
from harness.cell import Cell
from harness.commands.profile import profile as profile_command
from harness.matrix.problems import bilevel_problem
from harness.probes.memory import peak_memory, profiled_peak
from harness.profiling import folder as on_disk
from harness.profiling import trace as tracing
from harness.profiling.folder import FILES, Profile, folder_of, read_profile, replaced_when_whole
from harness.profiling.memory_timeline import follow_allocations, follow_storages

Event = dict[str, Any]


def cell_of(estimator: str, depth: int = 3) -> Cell:
    return Cell.of(estimator=estimator, task="sinusoid", model="mlp-40-40", depth=depth)


def work_of(cell: Cell) -> Callable[[], object]:
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    return partial(create(cell.estimator), problem, params)


def span(event: Event) -> tuple[float, float]:
    return event["ts"], event["ts"] + event["dur"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """A profile that the command measured in a worker, and that replaced an older one."""
    cell, store = cell_of("maml"), tmp_path_factory.mktemp("store")
    folder = folder_of(cell, store)
    folder.mkdir(parents=True)
    (folder / "profile.json").write_text(json.dumps({"cell": cell.id, "at": "2020-01-01"}))
    with redirect_stdout(StringIO()) as printed:
        profile_command(cell.id, store=store, out=folder)
    for part in (cell.id, *Phase, *FILES, "aten::mm"):
        assert part in printed.getvalue()
    return read_profile(folder)


@pytest.fixture(scope="module")
def events(stored: Profile) -> list[Event]:
    trace = json.loads((stored.folder / "trace.json").read_text())
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def test_it_has_all_its_files_and_no_other(stored: Profile) -> None:
    assert {path.name for path in stored.folder.iterdir()} == set(FILES)
    assert [path.name for path in stored.folder.parent.iterdir()] == [stored.folder.name]
    assert stored.summary["at"] > "2020-01-01"
    assert stored.summary["cell"] == cell_of("maml").id
    assert stored.summary["environment"]["packages"]["torch"]
    assert stored.summary["notes"] == []


def test_phases_of_the_trace_nest_and_cover(events: list[Event]) -> None:
    whole = [span(event) for event in events if event["name"] == tracing.ESTIMATE]
    phases = sorted(span(event) for event in events if event["name"] in set(Phase))
    assert len(whole) == 1
    assert {event["name"] for event in events} >= set(Phase)
    assert all(one[1] == pytest.approx(next_[0]) for one, next_ in pairwise(phases))
    assert (phases[0][0], phases[-1][1]) == whole[0]
    ops = [span(event) for event in events if event.get("cat") == "cpu_op"]
    assert len(ops) > 100
    assert all(whole[0][0] <= first <= last <= whole[0][1] for first, last in ops)
    threads: dict[object, list[tuple[float, float]]] = {}
    for event in events:
        threads.setdefault(event["tid"], []).append(span(event))
    assert len(threads) >= 2  # phases have a track
    for spans in threads.values():  # or viewers refuse them
        stack: list[float] = []
        for start, end in sorted(spans, key=lambda one: (one[0], -one[1])):
            while stack and stack[-1] <= start:
                stack.pop()
            assert not stack or end <= stack[-1] + 0.002  # times are rounded to nanoseconds
            stack.append(end)


def test_the_table_by_operator_is_that_of_torch() -> None:
    work = work_of(cell_of("maml"))
    with profile(activities=[ProfilerActivity.CPU]) as profiler, tracing.marked_phases():
        work()
    table = tracing.operators(profiler.events() or [])
    calls: Counter[str] = Counter()
    spent: dict[str, float] = defaultdict(float)
    for row in table:
        calls[row.operator] += row.calls
        spent[row.operator] += row.self_seconds
    torchs = {row.key: row for row in profiler.key_averages()}
    whole = torchs.pop(tracing.ESTIMATE)
    theirs = {name: row for name, row in torchs.items() if not tracing.marked_phase(name)}
    assert set(calls) == {*theirs, tracing.OUTSIDE}
    assert calls["aten::mm"] > 0
    for name, row in theirs.items():
        assert calls[name] == row.count, name
        assert spent[name] == pytest.approx(row.self_cpu_time_total * 1e-6), name
    assert sum(spent.values()) == pytest.approx(whole.cpu_time_total * 1e-6, rel=1e-6)
    assert {row.phase for row in table} == set(Phase)


def test_times_and_bytes_of_the_files_agree(stored: Profile, events: list[Event]) -> None:
    (whole,) = (event["dur"] * 1e-6 for event in events if event["name"] == tracing.ESTIMATE)
    assert stored.operators["self_seconds"].sum() == pytest.approx(whole, rel=1e-3)
    phases = stored.summary["phases"]
    assert sum(sums["seconds"] for sums in phases.values()) == pytest.approx(whole, rel=1e-3)
    assert set(phases) == set(stored.memory["phase"]) == set(Phase)
    work = work_of(cell_of("maml"))
    work()
    assert stored.memory["live"].max() == stored.summary["peak_memory"] == peak_memory(work, "cpu")
    assert stored.tensors["bytes"].sum() == stored.summary["peak_memory"]


def test_the_peak_is_the_measured_one() -> None:
    for estimator in ("maml", "adjoint", "binom(order=2)"):
        work = work_of(cell_of(estimator))
        work()
        timeline = follow_storages(work)
        assert timeline.peak == peak_memory(work, "cpu") > 0, estimator
        assert sum(row.bytes for row in timeline.tensors) == timeline.peak, estimator
        assert timeline.peak_by_phase[timeline.peak_phase] == timeline.peak, estimator
        live = 0
        for change in timeline.changes:
            live += change.bytes
            assert change.live == live >= 0, estimator


def test_the_timeline_ends_with_the_tensors_of_the_result() -> None:
    results: list[Any] = []
    work = work_of(cell_of("maml"))
    timeline = follow_storages(lambda: results.append(work()))
    (result,) = results
    tensors = [*result.gradient.values(), *result.adapted.values(), result.outer_loss]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    assert timeline.changes[-1].live == sum(storages.values()) > 0


def test_tensors_at_the_peak_have_phase_and_operator() -> None:
    def work() -> None:
        with phase(Phase.INNER_LOOP):
            ones = [torch.ones(3, 4) for _ in range(2)]
            passing = torch.zeros(100)
            del passing
        with phase(Phase.OUTER_GRADIENT):
            both = torch.cat(ones).double()
            rest = both.new_zeros(200)
        del ones, both, rest

    timeline = follow_storages(work)
    assert [tuple(vars(row).values()) for row in timeline.tensors] == [
        ("outer gradient", "aten::new_zeros", "200", "float64", 1, 1600),
        ("outer gradient", "aten::_to_copy", "6 x 4", "float64", 1, 192),
        ("inner loop", "aten::ones", "3 x 4", "float32", 2, 96),
    ]
    assert timeline.peak_phase == "outer gradient"
    assert timeline.peak_by_phase["inner loop"] == 2 * 48 + 400
    assert timeline.changes[-1].live == 0


def test_a_storage_that_grows_counts_twice_while_it_is_copied() -> None:
    def work() -> None:
        out = torch.empty(10)
        torch.add(torch.ones(30), 1, out=out.resize_(30))

    assert follow_storages(work).peak == peak_memory(work, "cpu")


def test_allocations_that_a_dispatch_mode_cannot_see() -> None:
    work = work_of(cell_of("maml"))
    work()
    timeline = follow_allocations(work)
    assert timeline.peak == profiled_peak(work) > 0
    assert timeline.tensors == []
    assert timeline.peak_by_phase == {"meta-gradient": timeline.peak}


def test_stacks_are_well_formed_and_lead_from_the_estimator_to_operators(stored: Profile) -> None:
    lines = (stored.folder / "stacks.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[^;]+(;[^;]+)* [1-9]\d*", line) for line in lines)
    stacks = stored.stacks
    assert {stack[0] for stack in stacks} == set(Phase)
    frames = {frame for stack in stacks for frame in stack}
    assert not any("0x" in frame or "phases.py" in frame for frame in frames)
    called = [
        stack
        for stack in stacks
        if "aten::addmm" in stack and any("problem.py" in frame for frame in stack)
    ]
    assert called
    for stack in called:
        roots = [frame.rpartition(": ")[2] for frame in stack if "estimator.py" in frame]
        assert roots[:1] == ["__call__"]
    # Every stack but that of the root itself begins with the estimator's call.
    assert all("estimator.py" in stack[1] for stack in stacks if len(stack) > 1)


def test_times_of_stacks_are_divided_by_phase(tmp_path: Path) -> None:
    def event(name: str, start: float, end: float, kind: str) -> Event:
        return {"ph": "X", "name": name, "ts": start, "dur": end - start, "cat": kind}

    def root() -> None: ...

    code = root.__code__
    named = f"/somewhere/{Path(code.co_filename).name}({code.co_firstlineno}): root"
    trace = {
        "traceEvents": [
            event("before", 0, 5, "python_function"),
            event(named, 10, 100, "python_function"),
            event("phase: meta-gradient", 9, 9, "user_annotation"),
            event("phase: inner loop", 30, 31, "user_annotation"),
            event("phase: meta-gradient", 60, 61, "user_annotation"),
            event("a.py(1): a", 10, 90, "python_function"),
            event("aten::mm", 20, 30, "cpu_op"),
            event("aten::add", 30, 40, "cpu_op"),
            event("<built-in f at 0x7f; x>", 50, 80, "python_function"),
            event("estimators/base/phases.py(3): phase", 80, 84, "python_function"),
            event("harness/x.py(3): change", 81, 83, "python_function"),
        ]
    }
    stacks = tracing.collapse(trace, root)  # type: ignore[arg-type]
    assert stacks == {
        ("meta-gradient", "a.py(1): a"): 10_000 + 6_000,
        ("meta-gradient", "a.py(1): a", "aten::mm"): 10_000,
        ("inner loop", "a.py(1): a", "aten::add"): 10_000,
        ("inner loop", "a.py(1): a"): 10_000,
        ("inner loop", "a.py(1): a", "<built-in f: x>"): 10_000,
        ("meta-gradient", "a.py(1): a", "<built-in f: x>"): 20_000,
        ("meta-gradient",): 10_000,
    }
    on_disk.write_stacks(stacks, tmp_path / "stacks.txt")
    assert on_disk.read_stacks(tmp_path / "stacks.txt") == stacks


@pytest.mark.slow
def test_a_compiled_estimate_is_profiled_as_one_program(tmp_path: Path) -> None:
    cell = cell_of("fomaml(compiled=True)", depth=1)
    profile_command(cell.id, store=tmp_path)
    summary = read_profile(folder_of(cell, tmp_path)).summary
    assert set(summary["phases"]) == {"meta-gradient"}
    assert len(summary["notes"]) == 1


def test_a_fault_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    faulty = str(Path(__file__).with_name("support") / "faulty.py")
    name = cell_of("fomaml").id.replace("fomaml", "raises")
    with pytest.raises(UserError, match=r"raises .*KeyError") as raised:
        profile_command(name, store=tmp_path, imports=[faulty])
    assert "\n" not in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.name != "profiles"]
    ESTIMATORS.create("raises")  # it was the estimator itself that failed


def test_a_cell_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    fomaml = cell_of("fomaml").id
    for name, reason in {
        "nonsense": "nonsense",
        fomaml.replace("/cpu/", "/cuda:99/"): "cuda:99",
        fomaml.replace("fomaml", "truncated(order=9)"): "order=9",
    }.items():
        with pytest.raises(OptionError, match=reason):
            profile_command(name, store=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_only_an_older_profile_of_the_cell_is_replaced(tmp_path: Path) -> None:
    cell, other = cell_of("fomaml"), cell_of("maml")
    folder = tmp_path / "out"

    def write(by: Cell, text: str) -> None:
        with replaced_when_whole(folder, by.id) as draft:
            (draft / "profile.json").write_text(json.dumps({"cell": by.id, "text": text}))

    def text() -> str:
        return str(json.loads((folder / "profile.json").read_text())["text"])

    write(cell, "first")
    write(cell, "second")
    assert text() == "second"
    with pytest.raises(UserError, match="out"):
        write(other, "third")
    with pytest.raises(ZeroDivisionError), replaced_when_whole(folder, cell.id) as draft:
        (draft / "profile.json").write_text(str(1 // 0))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="out"):
        write(cell, "fourth")
    assert text() == "second"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write"),
        replaced_when_whole(tmp_path / "file" / "x", cell.id),
    ):
        pass


def test_names_of_folders_are_safe_and_apart() -> None:
    estimators = ("binom(order=2)", "binom(order=1)", "binom-chebyshev(order=2)")
    names = [folder_of(cell_of(one), Path()).name for one in estimators]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"[\w.=-]{1,140}", name) for name in names)
