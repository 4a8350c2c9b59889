"""`metagrad run` on a Dask cluster: real schedulers and workers, which are killed, too."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.environment import code_state
from harness.matrix.metrics import METRICS
from harness.store.runs import Run, read_run
from harness.store.table import load
from tests.support.commands import COMMAND, TINY, estimators, processes, variables, wait_for
from tests.support.dask_cluster import (
    DaskCluster,
    dask_cluster,
    kill_in_midst,
    stages_of,
    wait_for_results,
)

EXACT = [metric.name for metric in METRICS.values() if not metric.noisy]
MANY = tuple(part for seed in range(20) for part in ("--seed", str(seed)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("c")) as started:
        yield started


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [COMMAND, "run", *arguments],
        cwd=folder,
        env=os.environ | variables(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    command = start(folder, *arguments)
    out, told = command.communicate(timeout=240)
    return command.returncode, out, told


def on(cluster: DaskCluster) -> tuple[str, ...]:
    return "--executor", "dask", "--scheduler", cluster.address


def journal(folder: Path) -> Path:
    paths: list[Path] = []

    def there() -> bool:
        paths[:] = (folder / "results" / "runs").glob("*.jsonl")
        return bool(paths)

    wait_for(there)
    (path,) = paths
    return path


def ends(read: Run) -> dict[str, Any]:
    return {
        cell.id: (cell.status, cell.reason, {m: cell.samples.get(m) for m in EXACT})
        for cell in read.cells
    }


def test_same_outcomes_as_on_this_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    wrong = ("raises", "segfaults", "nan", "truncated(order=2)")
    arguments = (*TINY, *estimators("fomaml", "maml", *wrong), "--depth", "1", "--depth", "3")
    told = {}
    for name, where in (("here", ()), ("there", on(cluster))):
        folder = tmp_path / name
        folder.mkdir()
        code, out, error = run(folder, *arguments, *where)
        assert (code, error) == (1, ""), out
        told[name] = read_run(journal(folder))
        assert told[name].ended
    assert ends(told["here"]) == ends(told["there"])
    assert told["here"].machines == {}
    (machine,) = told["there"].machines.values()
    assert machine["fingerprint"] == told["here"].environment["fingerprint"]
    assert machine["commit"] == told["there"].environment["commit"]
    table, problems = load(tmp_path / "there" / "results")
    assert not problems
    assert set(table["fingerprint"]) == {machine["fingerprint"]}


def test_a_lost_workers_cells_are_run_again_and_once(tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml", "reptile"), *MANY, "--samples", "6")
    with dask_cluster(tmp_path / "cluster") as cluster:
        command = start(tmp_path, *arguments, "--depth", "1", *on(cluster))
        there = kill_in_midst(cluster.workers[0], journal(tmp_path), after=15)
        out, error = command.communicate(timeout=240)
    assert (command.returncode, error) == (0, ""), out
    read = read_run(journal(tmp_path))
    assert there < 2 * len(read.cells)
    assert read.ended
    assert len(read.cells) == 60
    assert {cell.status for cell in read.cells} == {"ok"}
    counted = stages_of(journal(tmp_path))
    assert set(counted.values()) == {1}
    assert len(counted) == 2 * 60


def test_interrupted_it_goes_on_without_the_cluster(cluster: DaskCluster, tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml"), *MANY, "--depth", "1", "--samples", "0")
    command = start(tmp_path, *arguments, *on(cluster))
    wait_for_results(journal(tmp_path), 2)
    command.send_signal(signal.SIGINT)
    _, error = command.communicate(timeout=60)
    assert command.returncode == 2
    assert "the same command goes on from there" in error
    assert len(error.splitlines()) == 1
    code, out, error = run(tmp_path, *arguments)
    assert (code, error) == (0, ""), out
    assert "Going on with" in out
    assert set(stages_of(journal(tmp_path)).values()) == {1}


def test_a_scheduler_that_is_lost_is_told_and_nothing_else_is(tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml"), *MANY, "--depth", "1", "--samples", "0")
    with dask_cluster(tmp_path / "cluster") as cluster:
        command = start(tmp_path, *arguments, *on(cluster))
        wait_for_results(journal(tmp_path), 2)
        cluster.scheduler.kill()
        _, error = command.communicate(timeout=120)
    assert command.returncode == 2
    assert error == (
        "metagrad: the connection to the cluster's scheduler was lost; when it is there again, "
        "the same command goes on\n"
    )


def test_without_workers_it_waits_and_says_so(tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml"), *MANY, "--depth", "1", "--samples", "0")
    with dask_cluster(tmp_path / "cluster", workers=1) as cluster:
        command = start(tmp_path, *arguments, *on(cluster))
        kill_in_midst(cluster.workers[0], journal(tmp_path), after=1)
        wait_for(lambda: "waiting for a worker that has cpu" in journal(tmp_path).read_text())
        cluster.start_worker()
        out, error = command.communicate(timeout=120)
    assert (command.returncode, error) == (0, ""), out
    assert set(stages_of(journal(tmp_path)).values()) == {1}


def test_devices_are_those_of_the_workers(cluster: DaskCluster, tmp_path: Path) -> None:
    gpus = ("--device", "cpu", "--device", "cuda:1")
    arguments = (*TINY, *estimators("fomaml"), "--depth", "1")
    code, out, error = run(tmp_path, *arguments, *gpus, *on(cluster))
    assert (code, error) == (0, ""), out
    ended = {cell.axes["device"]: cell.reason for cell in read_run(journal(tmp_path)).cells}
    assert ended == {
        "cpu": "",
        "cuda:1": "no worker of the cluster has cuda:1; they have cpu",
    }
    code, _, error = run(tmp_path, *arguments, *gpus[2:], *on(cluster))
    assert code == 2
    assert error == (
        "metagrad: nothing to measure: no worker of the cluster has cuda:1; they have cpu\n"
    )


def test_a_dry_run_prints_what_would_be_asked(cluster: DaskCluster, tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml"), *MANY[:6], "--depth", "1")
    code, out, error = run(tmp_path, *arguments, *on(cluster), "--dry-run")
    assert (code, error) == (0, "")
    assert f"2 workers at {cluster.address}" in out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("cpu=1"))
    assert row == ["cpu=1", "3", "6", "3"]
    assert not (tmp_path / "results").exists()


def test_workers_on_this_machine(tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml"), "--depth", "1")
    code, out, error = run(tmp_path, *arguments, "--executor", "dask", "--jobs", "2")
    assert (code, error) == (0, ""), out
    read = read_run(journal(tmp_path))
    assert [cell.status for cell in read.cells] == ["ok", "ok"]
    (machine,) = read.machines.values()
    assert machine["state"] == code_state(read.environment)  # threads, variables and all
    assert not processes(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--nthreads", "1", "--resources", "cpu=1"), "may not start processes of its own"),
        (("--no-nanny", "--nthreads", "1"), "names its device"),
    ],
)
def test_a_worker_that_cannot_work_is_told(
    tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    with dask_cluster(tmp_path / "cluster", workers=0) as cluster:
        cluster.start_worker(*options)
        cluster.wait_for_workers(1)
        code, _, error = run(tmp_path, *TINY, *estimators("fomaml"), "--depth", "1", *on(cluster))
    assert code == 2
    assert told in error
    assert len(error.splitlines()) == 1


def test_other_code_on_a_worker_is_refused(tmp_path: Path) -> None:
    with dask_cluster(tmp_path / "cluster", workers=0) as cluster:
        # An installation of its own, of other files.
        other = tmp_path / "other"
        root = Path(__file__).resolve().parents[1]
        other.mkdir()
        for package in ("estimators", "harness"):
            subprocess.run(["cp", "-r", root / package, other / package], check=True)
        with (other / "estimators" / "tree.py").open("a", encoding="utf-8") as file:
            file.write("# another\n")
        cluster.start_worker(PYTHONPATH=str(other))
        cluster.wait_for_workers(1)
        code, _, error = run(tmp_path, *TINY, *estimators("fomaml"), "--depth", "1", *on(cluster))
    assert code == 2
    assert "has another source than this machine" in error


def test_no_scheduler_is_told(tmp_path: Path) -> None:
    code, _, error = run(tmp_path, *TINY, "--executor", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert code == 2
    assert error.startswith("metagrad: no Dask scheduler answers at tcp://127.0.0.1:9")
    assert len(error.splitlines()) == 1


def test_a_scheduler_goes_with_dask_alone(tmp_path: Path) -> None:
    code, _, error = run(tmp_path, *TINY, "--scheduler", "tcp://127.0.0.1:9")
    assert code == 2
    assert "--executor dask" in error
