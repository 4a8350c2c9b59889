"""Stores to merge, and what is in them."""

from datetime import datetime
from pathlib import Path
from typing import Any

from harness.asv.results import load_asv
from harness.history.kernel_times import with_kernel_times
from harness.merging.merge import Merged
from harness.store.journal import Journal
from harness.store.table import Problem, load
from harness.store.trainings import Training, TrainingJournal, trainings
from tests.support.asv_files import MATRIX, write_asv
from tests.support.histories import SCORES, A, B, cell, write_run
from tests.support.kernel_files import KERNELS, of_commit, write
from tests.support.stores import environment

TWO = [1.0] * 4


def train(store: Path, machine: str = "ci") -> Path:
    journal = TrainingJournal.create(store)
    axes: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5, "seed": 0}
    axes |= {"step_size": 0.01, "device": "cpu", "dtype": "float32", "outer": {"steps": 5}}
    journal.start(environment(A, machine=machine), Training("maml", **axes))
    journal.evaluation(5, "test", {"outer_loss": [1.0, 2.0]}, seconds=1.0)
    journal.end()
    return journal.path


def filled(folder: Path, machine: str = "ci") -> Path:
    """A store with results of all kinds."""
    write_run(folder, A, {cell(): SCORES}, machine=machine)
    write_run(folder, B, {cell(): SCORES, cell("fomaml"): SCORES}, machine=machine)
    train(folder, machine)
    for commit in (A, B):
        write_asv(folder / "asv", commit, {MATRIX + "hvps": TWO}, machine=machine)
    write(folder / "benchmarks" / "any-name.json", of_commit(KERNELS, A, 1.0, machine=machine))
    return folder


def contents(store: Path) -> dict[str, bytes]:
    """What is in the files of a store, by the path in it; hidden files, too."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def problems(store: Path) -> list[Problem]:
    """What the readers of a store have to complain of."""
    found = load(store)[1] if (store / "runs").exists() else []
    asv, more = load_asv(store / "asv")
    return found + more + trainings(store)[1] + with_kernel_times(asv, store / "benchmarks")[1]


def told(merged: Merged) -> list[str]:
    return [one.what for one in merged.left_out]


def journal(store: Path, lines: int = 2) -> Path:
    """A run without an end."""
    made = Journal.create(store)
    made.start(environment(A), cells=1)
    for number in range(lines - 1):
        made.resume({"n": number})
    made.close()
    return made.path


def asv(folder: Path, values: Any, started: datetime, **changed: Any) -> Path:
    return write_asv(folder / "asv", A, values, started_at=started, **changed)
