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
UNTIMED = (*TINY, *estimators("fomaml", "maml"), *MANY, "--depth", "1", "--samples", "0")


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
    out, errors = command.communicate(timeout=240)
    return command.returncode, out, errors


def on(cluster: DaskCluster) -> tuple[str, ...]:
    return "--executor", "dask", "--scheduler", cluster.address


def journal(folder: Path) -> Path:
    wait_for(lambda: any((folder / "results" / "runs").glob("*.jsonl")))
    (path,) = (folder / "results" / "runs").glob("*.jsonl")
    return path


def outcomes(result: Run) -> dict[str, Any]:
    return {
        cell.id: (cell.status, cell.reason, {m: cell.samples.get(m) for m in EXACT})
        for cell in result.cells
    }


def test_same_outcomes_as_on_this_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    wrong = ("raises", "segfaults", "nan", "truncated(order=2)")
    arguments = (*TINY, *estimators("fomaml", "maml", *wrong), "--depth", "1", "--depth", "3")
    results = {}
    for name, where in (("here", ()), ("there", on(cluster))):
        folder = tmp_path / name
        folder.mkdir()
        code, out, errors = run(folder, *arguments, *where)
        assert (code, errors) == (1, ""), out
        results[name] = read_run(journal(folder))
        assert results[name].ended
    here, there = results["here"], results["there"]
    assert outcomes(here) == outcomes(there)
    assert here.machines == {}
    (machine,) = there.machines.values()
    assert machine["fingerprint"] == here.environment["fingerprint"]
    assert machine["commit"] == there.environment["commit"]
    table, problems = load(tmp_path / "there" / "results")
    assert not problems
    assert set(table["fingerprint"]) == {machine["fingerprint"]}


def test_a_scheduler_goes_with_dask_only(tmp_path: Path) -> None:
    code, _, errors = run(tmp_path, *TINY, "--scheduler", "tcp://127.0.0.1:9")
    assert code == 2
    assert "--executor dask" in errors


@pytest.mark.slow
def test_devices_are_those_of_the_workers(cluster: DaskCluster, tmp_path: Path) -> None:
    gpus = ("--device", "cpu", "--device", "cuda:1")
    arguments = (*TINY, *estimators("fomaml"), "--depth", "1")
    code, out, errors = run(tmp_path, *arguments, *gpus, *on(cluster))
    assert (code, errors) == (0, ""), out
    reasons = {cell.axes["device"]: cell.reason for cell in read_run(journal(tmp_path)).cells}
    missing = "no worker of the cluster has cuda:1; they have cpu"
    assert reasons == {"cpu": "", "cuda:1": missing}
    code, _, errors = run(tmp_path, *arguments, *gpus[2:], *on(cluster))
    assert code == 2
    assert errors == f"metagrad: nothing to measure: {missing}\n"


@pytest.mark.slow
def test_a_dry_run_prints_the_pieces_of_work(cluster: DaskCluster, tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml"), *MANY[:6], "--depth", "1")
    code, out, errors = run(tmp_path, *arguments, *on(cluster), "--dry-run")
    assert (code, errors) == (0, "")
    assert f"2 workers at {cluster.address}" in out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("cpu=1"))
    assert row == ["cpu=1", "3", "6", "3"]
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_interrupted_it_goes_on_without_the_cluster(cluster: DaskCluster, tmp_path: Path) -> None:
    command = start(tmp_path, *UNTIMED, *on(cluster))
    wait_for_results(journal(tmp_path), 2)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 2
    assert str(journal(tmp_path).relative_to(tmp_path)) in errors
    assert len(errors.splitlines()) == 1
    code, out, errors = run(tmp_path, *UNTIMED)
    assert (code, errors) == (0, ""), out
    assert set(stages_of(journal(tmp_path)).values()) == {1}


@pytest.mark.slow
def test_what_is_lost_is_done_again_or_ends_the_run(tmp_path: Path) -> None:
    """One of two workers is killed, then the other; one comes; then the scheduler is killed."""
    arguments = (*TINY, *estimators("fomaml", "maml", "reptile"), *MANY, "--samples", "6")
    with dask_cluster(tmp_path / "cluster") as cluster:
        one, other, last = (tmp_path / name for name in ("one", "other", "last"))
        for folder in (one, other, last):
            folder.mkdir()
        command = start(one, *arguments, "--depth", "1", *on(cluster))
        there = kill_in_midst(cluster.workers[0], journal(one), after=15)
        out, errors = command.communicate(timeout=240)
        assert (command.returncode, errors) == (0, ""), out
        result = read_run(journal(one))
        assert there < 2 * len(result.cells)
        assert (result.ended, len(result.cells)) == (True, 60)
        assert {cell.status for cell in result.cells} == {"ok"}
        assert [*stages_of(journal(one)).values()] == [1] * 2 * 60

        command = start(other, *UNTIMED, *on(cluster))
        kill_in_midst(cluster.workers[1], journal(other), after=1)
        wait_for(lambda: "waiting for a worker that has cpu" in journal(other).read_text())
        cluster.start_worker()
        out, errors = command.communicate(timeout=120)
        assert (command.returncode, errors) == (0, ""), out
        assert set(stages_of(journal(other)).values()) == {1}

        command = start(last, *UNTIMED, *on(cluster))
        wait_for_results(journal(last), 2)
        cluster.scheduler.kill()
        _, errors = command.communicate(timeout=120)
    assert command.returncode == 2
    assert "scheduler was lost" in errors
    assert len(errors.splitlines()) == 1
    code, _, errors = run(last, *UNTIMED, *on(cluster))
    assert code == 2
    assert f"no Dask scheduler answers at {cluster.address}" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
def test_workers_on_this_machine(tmp_path: Path) -> None:
    arguments = (*TINY, *estimators("fomaml", "maml"), "--depth", "1")
    code, out, errors = run(tmp_path, *arguments, "--executor", "dask", "--jobs", "2")
    assert (code, errors) == (0, ""), out
    result = read_run(journal(tmp_path))
    assert [cell.status for cell in result.cells] == ["ok", "ok"]
    (machine,) = result.machines.values()
    assert machine["state"] == code_state(result.environment)  # threads, variables and all
    assert not processes(tmp_path)
    assert not [*(tmp_path / "tmp").iterdir()]


@pytest.mark.slow
def test_workers_that_cannot_work_are_refused(tmp_path: Path) -> None:
    # An installation of other files.
    other, root = tmp_path / "other", Path(__file__).resolve().parents[1]
    other.mkdir()
    for package in ("estimators", "harness"):
        subprocess.run(["cp", "-r", root / package, other / package], check=True)
    with (other / "estimators" / "base" / "tree.py").open("a", encoding="utf-8") as file:
        file.write("# another\n")
    cases: list[tuple[tuple[str, ...], dict[str, str], str]] = [
        (("--nthreads", "1", "--resources", "cpu=1"), {}, "may not start processes"),
        (("--no-nanny", "--nthreads", "1"), {}, "names its device"),
        ((), {"PYTHONPATH": str(other)}, "has another source"),
    ]
    for options, changed, reason in cases:
        with dask_cluster(tmp_path / "cluster", workers=0) as cluster:
            cluster.start_worker(*options, **changed)
            cluster.wait_for_workers(1)
            arguments = (*TINY, *estimators("fomaml"), "--depth", "1", *on(cluster))
            code, _, errors = run(tmp_path, *arguments)
        assert code == 2
        assert reason in errors
        assert len(errors.splitlines()) == 1
