"""A Dask scheduler and workers on loopback, each started by the command line as a user does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client

from tests.support.commands import events, wait_for

LOOPBACK = ("--host", "127.0.0.1")
CPU = ("--no-nanny", "--nthreads", "1", "--resources", "cpu=1")


@dataclass
class DaskCluster:
    """A scheduler, and what is started to work for it.

    Attributes:
        folder: where everything runs, and logs.
        scheduler: process of the scheduler.
        address: its address.
        workers: their processes.
    """

    folder: Path
    scheduler: "subprocess.Popen[bytes]"
    address: str
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start_worker(self, *options: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Starts a worker; one with a CPU, unless options are given."""
        number = len(self.workers)
        command = ("dask_worker", self.address, *LOOPBACK, "--no-dashboard", *(options or CPU))
        worker = _start(self.folder, f"worker-{number}", command, variables)
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, count: int) -> None:
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)


@contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Generator[DaskCluster]:
    """A scheduler with workers that have a CPU each; all is killed in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    command = ("dask_scheduler", *LOOPBACK, "--port", "0", "--no-dashboard")
    process = _start(folder, "scheduler", (*command, "--scheduler-file", str(file)), {})
    cluster = DaskCluster(folder, process, "")
    try:
        wait_for(file.exists)
        cluster.address = json.loads(file.read_text(encoding="utf-8"))["address"]
        for _ in range(workers):
            cluster.start_worker()
        if workers:
            cluster.wait_for_workers(workers)
        yield cluster
    finally:
        for one in (*cluster.workers, process):
            one.kill()
            one.wait()


def _start(
    folder: Path, name: str, command: Sequence[str], variables: dict[str, str]
) -> "subprocess.Popen[bytes]":
    kept = {"METAGRAD_CACHE": str(folder / "cache"), "DASK_TEMPORARY_DIRECTORY": str(folder)}
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]],
            cwd=folder,
            env=os.environ | kept | variables,
            stdout=log,
            stderr=log,
        )


def stages_of(journal: Path) -> Counter[tuple[str, str]]:
    """How often each stage of each cell is in a journal."""
    return Counter(
        (result["id"], event["stage"])
        for event in events(journal)
        if event["event"] == "results"
        for result in event["results"]
    )


def wait_for_results(journal: Path, count: int) -> None:
    """Waits until a journal has so many events with results, at little cost: others are at work."""

    def there() -> bool:
        time.sleep(0.1)
        return journal.read_bytes().count(b'{"event": "results"') >= count

    wait_for(there)


def kill_in_midst(worker: "subprocess.Popen[bytes]", journal: Path, after: int) -> int:
    """Kills a worker as soon as a journal has so many results; returns how many there were."""
    wait_for_results(journal, after)
    worker.send_signal(signal.SIGKILL)
    return sum(stages_of(journal).values())
