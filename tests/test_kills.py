"""Runs and workers that are killed or interrupted at any time, and go on."""

import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.cell import Cell
from harness.matrix.metrics import METRICS
from harness.matrix.outcome import Status
from harness.matrix.plan import Planned
from harness.running.executor import Settings
from harness.running.resume import begin
from harness.running.runner import run
from harness.store.journal import Progress
from harness.store.runs import read_run
from harness.store.table import load_sound
from tests.support import commands
from tests.support.commands import TINY, Command, estimators, events, finish, journals, stages

ESTIMATORS = ("fomaml", "maml", "reptile")
EXACT = [metric.name for metric in METRICS.values() if not metric.noisy]
SETTINGS = Settings(jobs=2, samples=6)
FEW_OR_MANY = pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])


def measured(path: Path) -> dict[str, dict[str, list[float]]]:
    """The deterministic samples of each cell of a run, all of which ended well."""
    cells = read_run(path).cells
    assert {cell.status for cell in cells} == {Status.OK}
    return {
        cell.id: {name: cell.samples[name] for name in EXACT if name in cell.samples}
        for cell in cells
    }


def sessions(store: Path) -> int:
    """How often a run of a store was begun or resumed."""
    written = b"".join(journals(store).values())
    return written.count(b'{"event": "start"') + written.count(b'{"event": "resume"')


def wait_for_session(command: Command, before: int) -> None:
    command.wait_for(lambda: sessions(command.folder / "results") > before)


@FEW_OR_MANY
def test_killed_runs_lose_nothing_and_repeat_nothing(tmp_path: Path, kills: int) -> None:
    delays = random.Random(0)
    arguments = (*TINY, "--depth", "1", "--depth", "2", "--jobs", "2", *estimators(*ESTIMATORS))
    alone = tmp_path / "alone"
    alone.mkdir()
    with Command(alone, *arguments) as command:
        wait_for_session(command, 0)
        start = time.monotonic()
        assert command.code() == 0
        duration = time.monotonic() - start
    (path,) = journals(alone / "results")
    expected = measured(path)
    assert len(expected) == 2 * len(ESTIMATORS)

    folder = tmp_path / "killed"
    folder.mkdir()
    store = folder / "results"
    orphans, before = set[psutil.Process](), dict[Path, bytes]()
    while kills:
        sessions_before = sessions(store)
        with Command(folder, *arguments) as command:
            wait_for_session(command, sessions_before)
            start = time.monotonic()
            command.process.join(delays.uniform(0, duration))
            command.send(signal.SIGKILL)
            killed = command.code() == -signal.SIGKILL
            assert killed or command.code() == 0, command.errors
        if not killed:  # on a busy machine no two runs take equally long
            duration = time.monotonic() - start
        kills -= killed
        orphans.update(commands.processes(folder))
        now = journals(store)
        for path, content in before.items():
            assert now[path].startswith(content)
        before = now
    assert finish(folder, *arguments) == (0, [])
    orphans.update(commands.processes(folder))
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive
    assert not [*(folder / "tmp").iterdir()]  # the last run has cleared what killed ones left

    for path in journals(store):
        result = read_run(path)
        assert (result.ended, result.faults) == (True, [])
        assert measured(path) == expected
        planned = {(cell, stage) for cell in expected for stage in ("score", "time")}
        assert Counter(stages(path)) == Counter(planned)
    table = load_sound(store)
    assert not table.duplicated(["run", "cell", "metric"]).any()
    assert set(table["cell"]) == set(expected)


def planned(*, seeds: int) -> list[Planned]:
    parts: dict[str, Any] = {"task": "quadratic", "model": "linear", "depth": 1, "num_tasks": 1}
    pairs = product(range(seeds), ESTIMATORS)
    return [Planned(Cell.of(estimator=name, seed=seed, **parts)) for seed, name in pairs]


def workers() -> list[psutil.Process]:
    """Return the workers of runs in this process: each leads a process group."""
    leaders = []
    for process in psutil.Process().children(recursive=True):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                leaders.append(process)
    return leaders


class Killer:
    """Kills workers of this process at random times, while it is entered."""

    def __init__(self, delays: random.Random, kills: int) -> None:
        self.kills, self._delays = kills, delays
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self.kills and not self._over.wait(self._delays.uniform(0, 0.4)):
            if alive := workers():
                with suppress(psutil.NoSuchProcess):
                    self._delays.choice(alive).kill()
                    self.kills -= 1


@FEW_OR_MANY
def test_a_killed_worker_costs_its_piece_of_work(tmp_path: Path, kills: int) -> None:
    delays = random.Random(1)
    plan = planned(seeds=4)
    while kills:
        session = begin(tmp_path, plan, samples=SETTINGS.samples)
        assert not session.finished  # a finished run does not go on
        with Killer(delays, kills) as killer:
            run(plan, session, SETTINGS)
        kills = killer.kills
        result = read_run(session.journal.path)
        assert result.ended
        assert {cell.id for cell in result.cells} == {p.cell.id for p in plan}
        assert set(Counter(stages(session.journal.path)).values()) == {1}
        for cell in result.cells:
            assert cell.status in (Status.OK, Status.CRASHED)
            assert cell.end.transient == (cell.status is Status.CRASHED)
    assert not workers()


@pytest.mark.slow
def test_a_cell_whose_worker_was_killed_is_measured_when_the_run_goes_on(tmp_path: Path) -> None:
    plan = planned(seeds=4)  # of so many workers not all are killed when they have just ended
    session = begin(tmp_path, plan, samples=SETTINGS.samples)
    path = session.journal.path

    def killed() -> set[tuple[str, str]]:
        return {
            (cell.id, name)
            for cell in read_run(path).cells
            for name, stage in cell.stages.items()
            if stage.status is Status.CRASHED
        }

    def interrupt(progress: Progress) -> None:
        if killed():
            raise KeyboardInterrupt

    with Killer(random.Random(2), 20), pytest.raises(KeyboardInterrupt):
        run(plan, session, SETTINGS, interrupt)
    assert not workers()
    again = killed()

    session = begin(tmp_path, plan, samples=SETTINGS.samples)
    assert session.journal.path == path
    run(plan, session, SETTINGS)
    assert len(measured(path)) == len(plan)
    scored = Counter(cell for cell, stage in stages(path) if stage == "score")
    assert scored == {p.cell.id: 1 + ((p.cell.id, "score") in again) for p in plan}


@pytest.mark.slow
def test_a_killed_fork_server_costs_what_its_workers_were_at(tmp_path: Path) -> None:
    plan = planned(seeds=2)
    session = begin(tmp_path, plan, samples=SETTINGS.samples)
    servers: set[int] = set()

    def kill_once(progress: Progress) -> None:
        ours = {child.pid for child in psutil.Process().children()}
        if not servers:
            servers.update(ours & {worker.ppid() for worker in workers()})
            for server in servers:
                os.kill(server, signal.SIGKILL)

    run(plan, session, SETTINGS, kill_once)
    result = read_run(session.journal.path)
    assert (len(servers), result.ended, len(result.cells)) == (1, True, len(plan))
    lost = [cell for cell in result.cells if cell.status is not Status.OK]
    assert {(cell.status, cell.end.transient) for cell in lost} <= {(Status.CRASHED, True)}
    assert len(lost) <= 2 * SETTINGS.jobs  # those that begin while it ends are lost, too


@pytest.mark.slow
def test_workers_in_native_code_end_with_their_runner(tmp_path: Path) -> None:
    endless = estimators("spins", "stubborn", "fomaml")
    with Command(tmp_path, *TINY, "--depth", "1", "--jobs", "3", *endless) as command:
        wait_for_session(command, 0)
        wait_until_scored(command, "fomaml")
        orphans = commands.processes(tmp_path)
        assert len(orphans) >= 3  # with their fork server
        command.send(signal.SIGKILL)
        command.code()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive


SLOW = "dawdles(seconds=0.3)"
NAMES = ("fomaml", SLOW, "reptile")
SLOWLY = (*TINY, "--depth", "1", "--jobs", "2", *estimators(*NAMES))


def wait_until_scored(command: Command, *names: str) -> None:
    """Wait until these estimators are scored, and no others."""

    def scored() -> bool:
        (path,) = journals(command.folder / "results")
        cells = read_run(path).cells
        return {cell.axes["estimator"] for cell in cells if "score" in cell.stages} == set(names)

    command.wait_for(scored)


# The cells that are scored when a run is ended, and the signals, one run after the other.
Ends = list[tuple[tuple[str, ...], list[signal.Signals]]]
TWICE: Ends = [(("fomaml", "reptile"), [signal.SIGINT, signal.SIGINT])]
OTHERS: Ends = [
    ((), [signal.SIGINT]),
    (("fomaml", "reptile"), [signal.SIGTERM]),
    (NAMES, [signal.SIGINT]),
    (NAMES, [signal.SIGHUP]),
]


@pytest.mark.parametrize("ends", [TWICE, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path: Path, ends: Ends) -> None:
    store = tmp_path / "results"
    orphans = set[psutil.Process]()
    for count, (scored, signals) in enumerate(ends):
        with Command(tmp_path, *SLOWLY) as command:
            wait_for_session(command, count)
            command.wait_for(lambda: bool({*commands.processes(tmp_path)} - orphans))
            wait_until_scored(command, *scored)
            for number in signals:
                command.send(number)
            code = command.code()
        orphans.update(commands.processes(tmp_path))
        (path,) = journals(store)
        assert code == 2
        (line,) = command.errors
        assert f"{len(scored)} of 3" in line
        assert str(path.relative_to(tmp_path)) in line
        assert not [*(tmp_path / "tmp").iterdir()]
    assert finish(tmp_path, *SLOWLY) == (0, [])
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive
    assert set(Counter(stages(path)).values()) == {1}
    assert len(measured(path)) == len(NAMES)
    assert events(path)[-1]["event"] == "end"


def test_folders_of_killed_processes_are_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.support.files import temporary_folder

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = tmp_path / "metagrad.results"  # a user's folder of such a name
    store.mkdir()
    for name in (".temporary", "file"):
        (tmp_path / "metagrad.left").mkdir(exist_ok=True)
        (tmp_path / "metagrad.left" / name).touch()
    live = temporary_folder.__wrapped__()
    assert {*tmp_path.iterdir()} == {store, live}
    other = temporary_folder.__wrapped__()
    assert {*tmp_path.iterdir()} == {store, live, other}
