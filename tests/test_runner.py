"""Runs with real worker processes: how cells end, and what is journalled."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from estimators.base.registry import ESTIMATORS
from harness.cell import Cell
from harness.matrix.metrics import METRICS
from harness.matrix.outcome import Status
from harness.matrix.plan import Planned
from harness.running.executor import Settings
from harness.running.resume import begin
from harness.running.runner import run
from harness.store.journal import Progress
from harness.store.runs import CellResult, read_run
from harness.support.plugins import load_plugins
from tests.support.commands import TINY, stages
from tests.support.commands import events as journal_events
from tests.support.commands import finish as command

FAULTY = "tests.support.faulty"
SETTINGS = Settings(jobs=2, samples=6, plugins=(FAULTY,))
TIME_LIMIT = 12  # seconds: all but those that never end must keep it on a busy machine
TASKS = 2
# Not trainings' own, some estimators' and GPUs'.
OF_RANDOM = {"spread", "own_spread", "rmse", "bias_limit", "bias_chance"}
OF_RANDOM |= {"bias_t2", "t2_error"}  # of drawn inner steps
ELSEWHERE = OF_RANDOM | {
    "accuracy",
    "own_bias",
    "bound",
    "reserved_memory",
    "utilisation",
    "compile_time",
}
ON_CPU = set(METRICS) - ELSEWHERE
GOOD: dict[str, set[str]] = {
    "good": set(),
    "warns": set(),
    "fomaml": {"bound"},
    "maml": set(),
    "imaml": {"own_bias"},
}
TIRES = f"tires(calls={5 + TASKS})"  # scoring calls it 4 times and once a task; timing more often

# Status, begin of the reason, and a part of the traceback.
FAULTS = {
    "raises": (Status.FAILED, "KeyError: 'no such\\nparameter' (faulty.py:", "in raises"),
    "raises-unpicklable": (Status.FAILED, "TwoPartError: ", "TwoPartError"),
    "nan": (Status.DIVERGED, "the estimate of task 0 is not finite", ""),
    "segfaults": (
        Status.CRASHED,
        "the worker process ended by SIGSEGV (faulty.py:",
        "Segmentation fault",
    ),
    "spins": (Status.TIMEOUT, f"not done after {TIME_LIMIT} s (faulty.py:", "in spins"),
    "quits": (Status.CRASHED, "the worker process ended by exit code 3", ""),
    "exits": (Status.FAILED, "SystemExit: 4", "in exits"),
    "hungry": (Status.OUT_OF_MEMORY, "MemoryError: no room for 1 PiB", ""),
    TIRES: (Status.FAILED, "RuntimeError: tired after 7 calls", "in tires"),
}


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """Register the faulty estimators in this process too, only for this file."""
    before = dict(ESTIMATORS._factories)
    load_plugins([FAULTY])
    yield
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(before)
    del sys.modules[FAULTY]


def planned(*estimators: str, skip: str = "", **axes: Any) -> list[Planned]:
    usual: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 1}
    axes = usual | {"num_tasks": TASKS} | axes
    return [Planned(Cell.of(estimator=estimator, **axes), skip) for estimator in estimators]


@dataclass
class Finished:
    """A run, its progress, and how many cells could be read at each report."""

    path: Path
    progress: list[Progress]
    readable: list[int]

    @property
    def cells(self) -> dict[str, CellResult]:
        return {cell.axes["estimator"]: cell for cell in read_run(self.path).cells}


def finish(plan: list[Planned], store: Path, settings: Settings = SETTINGS) -> Finished:
    session = begin(store, plan, samples=settings.samples, plugins=settings.plugins)
    done = Finished(session.journal.path, [], [])

    def on_progress(progress: Progress) -> None:
        done.progress.append(progress)
        done.readable.append(len(read_run(done.path).cells))

    run(plan, session, settings, on_progress)
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    skipped = planned("adjoint", skip="not today")
    plan = [*skipped, *planned(*FAULTS, *GOOD)]
    settings = replace(SETTINGS, time_limit=float(TIME_LIMIT))
    return finish(plan, tmp_path_factory.mktemp("store"), settings)


def test_each_fault_has_its_outcome(finished: Finished) -> None:
    for estimator, (status, reason, trace) in FAULTS.items():
        cell = finished.cells[estimator]
        assert (cell.status, cell.reason[: len(reason)]) == (status, reason), estimator
        assert "\n" not in cell.reason, estimator
        assert trace in cell.end.traceback, estimator
        assert not cell.end.transient, estimator
    cell = finished.cells["adjoint"]
    assert (cell.status, cell.reason, cell.samples) == (Status.SKIPPED, "not today", {})


def test_good_cells_beside_them_are_measured(finished: Finished) -> None:
    cells = finished.cells
    for estimator, more in GOOD.items():
        cell = cells[estimator]
        assert (cell.status, cell.reason) == (Status.OK, ""), estimator
        assert set(cell.samples) == ON_CPU | more, estimator
        assert {len(cell.samples[name]) for name in ("bias", "cosine_distance")} == {TASKS}
        for metric in ("time", "time_ratio"):
            assert len(cell.samples[metric]) == SETTINGS.samples
            assert min(cell.samples[metric]) > 0
        assert cell.samples["peak_memory"][0] > 0
        assert cell.samples["resident_memory"][0] >= 0
    assert cells["warns"].stages["score"].notes == ["warning: mind the gap"]
    assert max(cells["maml"].samples["bias"]) < 1e-12
    assert cells["good"].samples["bias"] == cells["fomaml"].samples["bias"]
    assert min(cells["fomaml"].samples["bias"]) > 1e-3
    # Of an MLP by hand: see test_probes.py.
    assert cells["fomaml"].samples["flops"] == [200_000]
    assert cells["maml"].samples["flops"] == [200_000 + 198_400]
    assert (cells["maml"].samples["hvps"], cells["fomaml"].samples["hvps"]) == ([1], [0])


def test_a_cell_that_fails_in_timing_costs_only_its_times(finished: Finished) -> None:
    cell = finished.cells[TIRES]
    assert len(cell.samples["bias"]) == TASKS
    assert "time" not in cell.samples
    timings = [e["results"] for e in journal_events(finished.path) if e.get("stage") == "time"]
    assert [len(results) for results in timings] == [1, len(GOOD)]
    assert timings[0][0]["id"] == cell.id
    assert {result["status"] for result in timings[1]} == {"ok"}


def test_the_journal_is_complete_and_readable_all_along(finished: Finished) -> None:
    events = journal_events(finished.path)
    assert (events[0]["event"], events[-1]["event"]) == ("start", "end")
    assert events[0]["cells"] == len(FAULTS) + len(GOOD) + 1
    results = stages(finished.path)
    assert len(set(results)) == len(results)
    cells = finished.cells
    assert {name for name, stage in results if stage != "time"} == {c.id for c in cells.values()}
    timed = {cells[name].id for name in (*GOOD, TIRES)}
    assert {name for name, stage in results if stage == "time"} == timed
    assert finished.readable == sorted(finished.readable)
    assert finished.readable[0] < finished.readable[-1] == len(cells)
    shares = [progress.done / progress.total for progress in finished.progress]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_deterministic_metrics_repeat_exactly(tmp_path: Path) -> None:
    plan = planned("binom(order=1)", "imaml", "leaks", depth=2, num_tasks=3)
    untimed = replace(SETTINGS, samples=0)
    once, again = (finish(plan, tmp_path / name, untimed).cells for name in ("once", "again"))
    for estimator, cell in once.items():
        assert cell.status is again[estimator].status is Status.OK, cell.reason
        # Without samples no time is measured.
        assert {name for name in cell.samples if METRICS[name].noisy} == {"resident_memory"}
        exact = {name for name in cell.samples if not METRICS[name].noisy}
        rare = {"imaml": {"bound"}, "leaks": {"bound"}, "binom(order=1)": {"own_bias"}}
        rare["leaks"] |= {"own_bias"}
        missing = rare[estimator] | {"accuracy", "reserved_memory"} | OF_RANDOM
        assert exact == {metric.name for metric in METRICS.values() if not metric.noisy} - missing
        for name in exact:
            assert cell.samples[name] == again[estimator].samples[name]
    assert once["leaks"].samples["retained_memory"] == [4096.0]


def test_workers_are_fresh_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[FAULTY], "seen_by", "the runner")
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "script.py", raising=False)
    before = dict(vars(main))
    paths = [tmp_path / name for name in ("one", "two")]
    done = finish(planned(*(f"witness(path='{path}')" for path in paths)), tmp_path)
    assert {cell.status for cell in done.cells.values()} == {Status.OK}
    assert vars(main) == before
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
    calls = [*lines[0], *lines[1]]
    assert {call["seen_by"] for call in calls} == {""}
    assert os.getpid() not in {call["pid"] for call in calls}
    (parent,) = {call["parent"] for call in calls}  # the fork server, which is a child of ours
    assert parent != os.getpid()
    one, two = ({call["pid"] for call in mine} for mine in lines)
    # Each is scored in its own process, and both are timed in a third one.
    assert (len(one), len(two), len(one & two)) == (2, 2, 1)


def test_workers_import_nothing_of_the_working_folder(tmp_path: Path) -> None:
    for name in ("code", "random", "profile"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('mine')\n", encoding="utf-8")
    assert command(tmp_path, *TINY, "--depth", "1", "--estimator", "fomaml") == (0, [])


def test_what_fails_before_an_estimate_fails_only_its_cells(tmp_path: Path) -> None:
    settings = replace(SETTINGS, plugins=("no_such_module",))
    (cell,) = finish(planned("fomaml"), tmp_path / "plugin", settings).cells.values()
    assert cell.status is Status.FAILED
    assert "no_such_module" in cell.reason

    wild: dict[str, Any] = {"task": "quadratic(drift=10)", "model": "linear"}
    plan = planned("maml", "fomaml", depth=20, step_size=5, **wild)
    cells = finish([*plan, *planned("reptile")], tmp_path / "reference").cells
    for estimator in ("maml", "fomaml"):
        assert cells[estimator].status is Status.DIVERGED
        assert "exact meta-gradient" in cells[estimator].reason
    assert cells["reptile"].status is Status.OK
