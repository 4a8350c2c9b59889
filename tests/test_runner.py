"""Every way in which a cell can end, in real worker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
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
from harness.store.table import load_sound
from harness.support.plugins import load_plugins

FAULTY = "tests.support.faulty"
SETTINGS = Settings(jobs=2, samples=6, time_limit=6.0, plugins=(FAULTY,))
TASKS = 2
# Of trainings alone, of some estimators, and of GPUs.
ON_CPU = set(METRICS) - {"accuracy", "own_bias", "bound", "reserved_memory", "utilisation"}
MORE: dict[str, set[str]] = {
    "good": set(),
    "fomaml": {"bound"},
    "maml": set(),
    "imaml": {"own_bias"},
}
COMMAND = Path(sys.executable).with_name("metagrad")

# What ends how: status, the one line of its reason, and a word of its traceback.
FAULTS = {
    "raises": (
        Status.FAILED,
        "KeyError: 'no such\\nparameter' (faulty.py:52 in go_wrong)",
        "go_wrong",
    ),
    "raises-unpicklable": (Status.FAILED, "TwoPartError: ", "TwoPartError"),
    "nan": (Status.DIVERGED, "the estimate of task 0 is not finite", ""),
    "segfaults": (
        Status.CRASHED,
        "the worker process ended by SIGSEGV (faulty.py:91 in go_wrong)",
        "Segmentation fault",
    ),
    "sleeps": (Status.TIMEOUT, "not done after 6 s (faulty.py:110 in go_wrong)", "go_wrong"),
    "quits": (Status.CRASHED, "the worker process ended by exit code 3", ""),
    "exits": (Status.FAILED, "SystemExit: 4", "go_wrong"),
    "hungry": (Status.OUT_OF_MEMORY, "MemoryError: no room for 1 PiB", ""),
    # Scoring calls it 4 times and once a task; timing calls it more often.
    f"tires(calls={5 + TASKS})": (Status.FAILED, "RuntimeError: tired after 7 calls", "go_wrong"),
}
GOOD = ("good", "fomaml", "maml", "imaml")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """Registers the faulty estimators in this process too, for this file alone."""
    before = dict(ESTIMATORS._factories)
    load_plugins([FAULTY])
    yield
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(before)
    del sys.modules[FAULTY]


def planned(*estimators: str, skip: str = "", **parts: Any) -> list[Planned]:
    usual: dict[str, Any] = {
        "task": "sinusoid",
        "model": "mlp-40-40",
        "depth": 1,
        "num_tasks": TASKS,
    }
    return [Planned(Cell.of(estimator=e, **usual | parts), skip) for e in estimators]


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass
class Finished:
    """A run, and what could be read of it while it went on."""

    path: Path
    progress: list[Progress]
    readable: list[int]

    @property
    def cells(self) -> dict[str, CellResult]:
        return {cell.axes["estimator"]: cell for cell in read_run(self.path).cells}


def finish(plan: list[Planned], store: Path, settings: Settings = SETTINGS) -> Finished:
    beginning = begin(store, plan, samples=settings.samples, plugins=settings.plugins)
    journal = beginning.journal
    done = Finished(journal.path, [], [])

    def tell(progress: Progress) -> None:
        done.progress.append(progress)
        done.readable.append(len(read_run(journal.path).cells))

    run(plan, beginning, settings, tell)
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    store = tmp_path_factory.mktemp("store")
    skipped = planned("adjoint", skip="not today")
    return finish([*skipped, *planned(*FAULTS, *GOOD)], store)


@pytest.mark.parametrize("estimator", FAULTS)
def test_every_fault_has_an_end_of_its_own(finished: Finished, estimator: str) -> None:
    status, reason, trace = FAULTS[estimator]
    cell = finished.cells[estimator]
    assert (cell.status, cell.reason[: len(reason)]) == (status, reason)
    assert "\n" not in cell.reason
    assert trace in cell.end.traceback


@pytest.mark.parametrize("estimator", GOOD)
def test_good_cells_beside_them_are_whole(finished: Finished, estimator: str) -> None:
    cell = finished.cells[estimator]
    assert (cell.status, cell.reason) == (Status.OK, "")
    assert set(cell.samples) == ON_CPU | MORE[estimator]
    for metric in ("bias", "cosine_distance"):
        assert len(cell.samples[metric]) == TASKS
    for metric in ("time", "time_ratio"):
        assert len(cell.samples[metric]) == SETTINGS.samples
        assert min(cell.samples[metric]) > 0
    assert cell.samples["peak_memory"][0] > 0
    assert cell.samples["resident_memory"][0] >= 0


def test_the_numbers_are_those_of_the_estimators(finished: Finished) -> None:
    cells = finished.cells
    assert max(cells["maml"].samples["bias"]) < 1e-12
    assert cells["good"].samples["bias"] == cells["fomaml"].samples["bias"]
    assert min(cells["fomaml"].samples["bias"]) > 1e-3
    # Of an MLP by hand: see test_probes.py.
    assert cells["fomaml"].samples["flops"] == [200_000]
    assert cells["maml"].samples["flops"] == [200_000 + 198_400]
    assert (cells["maml"].samples["hvps"], cells["fomaml"].samples["hvps"]) == ([1], [0])


def test_what_fails_in_timing_keeps_its_other_metrics(finished: Finished) -> None:
    cell = next(cell for name, cell in finished.cells.items() if name.startswith("tires"))
    assert len(cell.samples["bias"]) == TASKS
    assert "time" not in cell.samples


def test_the_others_are_then_timed_together_once_more(finished: Finished) -> None:
    timings = [e["results"] for e in events(finished.path) if e.get("stage") == "time"]
    assert [len(results) for results in timings] == [1, len(GOOD)]
    assert timings[0][0]["id"] == finished.cells[f"tires(calls={5 + TASKS})"].id
    assert {result["status"] for result in timings[1]} == {"ok"}


def test_skipped_cells_are_journalled_and_not_run(finished: Finished) -> None:
    cell = finished.cells["adjoint"]
    assert (cell.status, cell.reason, cell.samples) == (Status.SKIPPED, "not today", {})


def test_journal_is_complete(finished: Finished) -> None:
    written = events(finished.path)
    assert (written[0]["event"], written[-1]["event"]) == ("start", "end")
    assert written[0]["cells"] == len(FAULTS) + len(GOOD) + 1
    results = [
        (r["id"], e["stage"]) for e in written if e["event"] == "results" for r in e["results"]
    ]
    assert len(set(results)) == len(results)
    scored = {name for name, stage in results if stage in ("plan", "score")}
    timed = {name for name, stage in results if stage == "time"}
    cells = finished.cells
    assert scored == {cell.id for cell in cells.values()}
    assert timed == {c.id for name, c in cells.items() if name in GOOD or name[:5] == "tires"}
    assert written[0]["environment"]["packages"]["torch"]


def test_journal_is_readable_all_along(finished: Finished) -> None:
    assert finished.readable == sorted(finished.readable)
    assert finished.readable[0] < finished.readable[-1] == len(finished.cells)
    shares = [progress.done / progress.total for progress in finished.progress]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_deterministic_metrics_repeat_exactly(tmp_path: Path) -> None:
    plan = planned("binom(order=1)", "imaml", depth=2, num_tasks=3)
    once, again = (finish(plan, tmp_path / name).cells for name in ("once", "again"))
    for estimator, cell in once.items():
        exact = {name for name in cell.samples if not METRICS[name].noisy}
        rare = {"imaml": {"bound"}, "binom(order=1)": {"own_bias"}}[estimator]
        rare |= {"accuracy", "reserved_memory"}
        assert exact == {m.name for m in METRICS.values() if not m.noisy} - rare
        for name in exact:
            assert cell.samples[name] == again[estimator].samples[name]


def test_a_leak_is_told_to_the_byte(tmp_path: Path) -> None:
    cells = finish(planned("good", "leaks"), tmp_path).cells
    told = {name: cell.samples["retained_memory"] for name, cell in cells.items()}
    assert told == {"good": [0.0], "leaks": [4096.0]}


def test_without_samples_no_time_is_taken(tmp_path: Path) -> None:
    (cell,) = finish(planned("maml"), tmp_path, replace(SETTINGS, samples=0)).cells.values()
    assert cell.status is Status.OK
    assert {name for name in cell.samples if METRICS[name].noisy} == {"resident_memory"}
    assert {"bias", "flops", "peak_memory"} <= set(cell.samples)


def test_workers_are_fresh_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[FAULTY], "seen_by", "the runner")
    paths = [tmp_path / name for name in ("one", "two")]
    done = finish(planned(*(f"witness(path='{path}')" for path in paths)), tmp_path)
    assert {cell.status for cell in done.cells.values()} == {Status.OK}
    lines = [events(path) for path in paths]
    calls = [*lines[0], *lines[1]]
    assert {call["seen_by"] for call in calls} == {""}
    assert os.getpid() not in {call["pid"] for call in calls}
    parents = {call["parent"] for call in calls}
    assert len(parents) == 1  # the fork server, which is a child of ours
    assert os.getpid() not in parents
    one, two = ({call["pid"] for call in mine} for mine in lines)
    # Each is scored in a process of its own, and both are timed in a third one.
    assert (len(one), len(two), len(one & two)) == (2, 2, 1)


@pytest.mark.parametrize("name", ["script.py", None], ids=["script", "console"])
def test_main_module_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    main = sys.modules["__main__"]
    if name is None:
        monkeypatch.delattr(main, "__file__", raising=False)
    else:
        monkeypatch.setattr(main, "__file__", name, raising=False)
    before = dict(vars(main))
    finish(planned("fomaml"), tmp_path)
    assert vars(main) == before


def test_workers_import_nothing_of_the_working_folder(tmp_path: Path) -> None:
    for name in ("code", "random", "profile"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('mine')\n", encoding="utf-8")
    tiny = ["--task", "quadratic", "--model", "linear", "--depth", "1", "--tasks", "1"]
    done = subprocess.run(
        [COMMAND, "run", *tiny, "--estimator", "fomaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_plugin_that_cannot_be_imported_fails_its_cells(tmp_path: Path) -> None:
    settings = replace(SETTINGS, plugins=("no_such_module",))
    (cell,) = finish(planned("fomaml"), tmp_path, settings).cells.values()
    assert cell.status is Status.FAILED
    assert "--import no_such_module: cannot be imported" in cell.reason


def test_reference_that_diverges_is_told_for_all_its_cells(tmp_path: Path) -> None:
    wild: dict[str, Any] = {
        "task": "quadratic(drift=10)",
        "model": "linear",
        "depth": 20,
        "step_size": 5,
    }
    plan = planned("maml", "fomaml", **wild)
    cells = finish([*plan, *planned("reptile")], tmp_path).cells
    for estimator in ("maml", "fomaml"):
        assert cells[estimator].status is Status.DIVERGED
        assert cells[estimator].reason == "the exact meta-gradient of task 0 is not finite"
    assert cells["reptile"].status is Status.OK


@contextmanager
def started(folder: Path) -> Generator["subprocess.Popen[bytes]"]:
    """A run in a process of its own, whose last cell does not end; what it tells is in a file."""
    here = Path(__file__).with_name("support")
    options = ["--task", "sinusoid", "--model", "mlp-40-40", "--depth", "1", "--tasks", "1"]
    for estimator in ("fomaml", "reptile", f"sleeps(path='{folder / 'asleep'}')"):
        options += ["--estimator", estimator]
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(
            [COMMAND, "run", "quick", *options, "--jobs", "2", "--import", here / "faulty.py"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=told,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for_two_results(folder: Path, process: "subprocess.Popen[bytes]") -> Path:
    """Waits until two cells are through and the third one sleeps; returns the journal."""
    while process.poll() is None:
        for path in (folder / "results" / "runs").glob("*.jsonl"):
            results = path.read_text(encoding="utf-8").count('"stage": "score"')
            if results == 2 and (folder / "asleep").exists():
                return path
        time.sleep(0.05)
    raise AssertionError((folder / "told").read_text(encoding="utf-8"))


def test_what_was_finished_survives_a_kill(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        path = wait_for_two_results(tmp_path, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    cells = read_run(path).cells
    assert {cell.axes["estimator"] for cell in cells} == {"fomaml", "reptile"}
    assert {(cell.status, len(cell.samples["bias"])) for cell in cells} == {(Status.OK, 1)}
    table = load_sound(tmp_path / "results")
    assert set(table["estimator"]) == {"fomaml", "reptile"}


@dataclass
class Interrupted:
    """What an interruption from the keyboard has left."""

    code: int
    told: list[str]
    journal: Path
    worker: int


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted")
    with started(folder) as process:
        path = wait_for_two_results(folder, process)
        process.send_signal(signal.SIGINT)
        code = process.wait()
    told = (folder / "told").read_text(encoding="utf-8").splitlines()
    worker = int((folder / "asleep").read_text(encoding="utf-8"))
    return Interrupted(code, told, path, worker)


def test_interruption_keeps_what_is_finished_and_stops_the_workers(
    interrupted: Interrupted,
) -> None:
    assert interrupted.code == 2
    where = Path("results", "runs", interrupted.journal.name)
    told = (
        f"metagrad: stopped; 2 of 3 cells are in {where}, and the same command goes on from there"
    )
    assert told in interrupted.told
    cells = read_run(interrupted.journal).cells
    assert {cell.axes["estimator"] for cell in cells} == {"fomaml", "reptile"}
    assert not psutil.pid_exists(interrupted.worker)


def test_interruption_is_told_in_one_line(interrupted: Interrupted) -> None:
    assert len(interrupted.told) == 1
