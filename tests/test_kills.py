"""Runs and workers that are killed or interrupted at any moment, and go on."""

import os
import random
import signal
import threading
import time
from collections import Counter
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

KILLS = 20
ESTIMATORS = ("fomaml", "maml", "reptile")
EXACT = [metric.name for metric in METRICS.values() if not metric.noisy]
SETTINGS = Settings(jobs=2, samples=6)
KILLED = "the worker process ended by SIGKILL"


def measured(path: Path) -> dict[str, dict[str, list[float]]]:
    """What repeats exactly of each cell of a run, all of which ended well."""
    cells = read_run(path).cells
    assert {cell.status for cell in cells} == {Status.OK}
    return {
        cell.id: {name: cell.samples[name] for name in EXACT if name in cell.samples}
        for cell in cells
    }


def begun(store: Path) -> int:
    """How often a run of a store was begun or gone on with."""
    written = b"".join(journals(store).values())
    return written.count(b'{"event": "start"') + written.count(b'{"event": "resume"')


def test_run_killed_twenty_times_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    moments = random.Random(0)
    arguments = (*TINY, "--depth", "1", "--depth", "2", "--jobs", "2", *estimators(*ESTIMATORS))
    alone = tmp_path / "alone"
    alone.mkdir()
    with Command(alone, *arguments) as command:
        wait_for_beginning(command, 0)
        start = time.monotonic()
        assert command.code() == 0
        duration = time.monotonic() - start
    (path,) = journals(alone / "results")
    expected = measured(path)
    assert len(expected) == 2 * len(ESTIMATORS)

    folder = tmp_path / "killed"
    folder.mkdir()
    store = folder / "results"
    kills, orphans, before = 0, set[psutil.Process](), dict[Path, bytes]()
    while kills < KILLS:
        begun_before = begun(store)
        with Command(folder, *arguments) as command:
            wait_for_beginning(command, begun_before)
            start = time.monotonic()
            command.process.join(moments.uniform(0, duration))
            command.send(signal.SIGKILL)
            killed = command.code() == -signal.SIGKILL
            assert killed or command.code() == 0, command.told
        if not killed:  # on a busy machine no two runs take equally long
            duration = time.monotonic() - start
        kills += killed
        orphans.update(commands.processes(folder))
        now = journals(store)
        for path, content in before.items():
            assert now[path].startswith(content)
        before = now
    code, told = finish(folder, *arguments)
    assert (code, told) == (0, [])
    orphans.update(commands.processes(folder))
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive

    for path in journals(store):
        run = read_run(path)
        assert (run.ended, run.faults) == (True, [])
        assert measured(path) == expected
        planned = {(cell, stage) for cell in expected for stage in ("score", "time")}
        assert Counter(stages(path)) == Counter(planned)
    table = load_sound(store)
    assert not table.duplicated(["run", "cell", "metric"]).any()
    assert set(table["cell"]) == set(expected)


def wait_for_beginning(command: Command, before: int) -> None:
    """Waits until a run is begun, or gone on with, once more than before."""
    command.wait_for(lambda: begun(command.folder / "results") > before)


def planned(*, seeds: int) -> list[Planned]:
    usual: dict[str, Any] = {"task": "quadratic", "model": "linear", "depth": 1, "num_tasks": 1}
    return [
        Planned(Cell.of(estimator=estimator, seed=seed, **usual))
        for seed in range(seeds)
        for estimator in ESTIMATORS
    ]


def workers() -> list[psutil.Process]:
    """Workers of runs in this process: each leads a group of its own."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if _leads(process.pid)]


def _leads(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


class Killer:
    """Kills workers of this process at random moments, while it is entered."""

    def __init__(self, moments: random.Random, kills: int) -> None:
        self.kills, self._moments = kills, moments
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self.kills and not self._over.wait(self._moments.uniform(0, 0.4)):
            found = workers()
            if found:
                try:
                    self._moments.choice(found).kill()
                except psutil.NoSuchProcess:
                    continue
                self.kills -= 1


def test_killed_worker_costs_what_it_was_at_and_nothing_else(tmp_path: Path) -> None:
    moments = random.Random(1)
    plan = planned(seeds=4)
    left = KILLS
    while left:
        beginning = begin(tmp_path, plan, samples=SETTINGS.samples)
        assert not beginning.finished  # a run that came to its end is not gone on with
        with Killer(moments, left) as killer:
            run(plan, beginning, SETTINGS)
        left = killer.kills
        done = read_run(beginning.journal.path)
        assert done.ended
        assert {cell.id for cell in done.cells} == {p.cell.id for p in plan}
        assert set(Counter(stages(beginning.journal.path)).values()) == {1}
        for cell in done.cells:
            good = cell.status is Status.OK
            assert good or (cell.status, cell.reason) == (Status.CRASHED, KILLED)
    assert not workers()

    beginning = begin(tmp_path, plan, samples=SETTINGS.samples)
    run(plan, beginning, SETTINGS)
    assert len(measured(beginning.journal.path)) == len(plan)


def test_cell_whose_worker_was_killed_is_measured_when_the_run_goes_on(tmp_path: Path) -> None:
    plan = planned(seeds=4)  # of so many workers not all are killed when they have just ended
    beginning = begin(tmp_path, plan, samples=SETTINGS.samples)
    path = beginning.journal.path

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

    with Killer(random.Random(2), KILLS), pytest.raises(KeyboardInterrupt):
        run(plan, beginning, SETTINGS, interrupt)
    assert not workers()
    again = killed()

    beginning = begin(tmp_path, plan, samples=SETTINGS.samples)
    assert beginning.journal.path == path
    run(plan, beginning, SETTINGS)
    assert len(measured(path)) == len(plan)
    scored = Counter(cell for cell, stage in stages(path) if stage == "score")
    assert scored == {p.cell.id: 1 + ((p.cell.id, "score") in again) for p in plan}


def test_killed_fork_server_costs_what_its_workers_were_at(tmp_path: Path) -> None:
    plan = planned(seeds=2)
    beginning = begin(tmp_path, plan, samples=SETTINGS.samples)
    servers: set[int] = set()

    def kill_once(progress: Progress) -> None:
        ours = {child.pid for child in psutil.Process().children()}
        if not servers:
            servers.update(ours & {worker.ppid() for worker in workers()})
            for server in servers:
                os.kill(server, signal.SIGKILL)

    run(plan, beginning, SETTINGS, kill_once)
    done = read_run(beginning.journal.path)
    assert (len(servers), done.ended, len(done.cells)) == (1, True, len(plan))
    ends = Counter((cell.status, cell.reason) for cell in done.cells)
    lost = ends.pop((Status.CRASHED, "the worker process ended by exit code 255"), 0)
    assert set(ends) == {(Status.OK, "")}
    assert lost <= 2 * SETTINGS.jobs  # what was begun while it went down is lost, too


def test_workers_in_native_code_end_with_their_runner(tmp_path: Path) -> None:
    endless = estimators("spins", "stubborn", "fomaml")
    with Command(tmp_path, *TINY, "--depth", "1", "--jobs", "3", *endless) as command:
        wait_for_beginning(command, 0)
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
    """Waits until these estimators are scored, and no others."""

    def scored() -> bool:
        (path,) = journals(command.folder / "results")
        cells = read_run(path).cells
        return {cell.axes["estimator"] for cell in cells if "score" in cell.stages} == set(names)

    command.wait_for(scored)


# When a run is ended, one after the other, and with which signals.
BEGINNING, SCORING, TIMING = (), ("fomaml", "reptile"), NAMES
ENDS = (
    (BEGINNING, [signal.SIGINT]),
    (SCORING, [signal.SIGINT, signal.SIGINT]),
    (SCORING, [signal.SIGTERM]),
    (TIMING, [signal.SIGINT]),
    (TIMING, [signal.SIGHUP]),
)


def test_interrupted_run_tells_how_to_go_on_and_does(tmp_path: Path) -> None:
    store = tmp_path / "results"
    orphans = set[psutil.Process]()
    for count, (scored, signals) in enumerate(ENDS):
        with Command(tmp_path, *SLOWLY) as command:
            wait_for_beginning(command, count)
            command.wait_for(lambda: bool({*commands.processes(tmp_path)} - orphans))
            wait_until_scored(command, *scored)
            for number in signals:
                command.send(number)
            code = command.code()
        orphans.update(commands.processes(tmp_path))
        (path,) = journals(store)
        assert code == 2
        assert command.told == [
            f"metagrad: stopped; {len(scored)} of 3 cells are in {path.relative_to(tmp_path)}, "
            "and the same command goes on from there"
        ]
        assert not [*(tmp_path / "tmp").iterdir()]
    assert finish(tmp_path, *SLOWLY) == (0, [])
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not alive
    assert set(Counter(stages(path)).values()) == {1}
    assert len(measured(path)) == len(NAMES)
    assert events(path)[-1]["event"] == "end"
