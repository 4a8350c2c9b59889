"""Stores to merge, and their contents."""

from pathlib import Path
from typing import Any

from harness.history.kernel_times import read_kernels
from harness.merging.merge import Merged
from harness.store.events import Problem
from harness.store.journal import Journal
from harness.store.table import load
from harness.store.trainings import Training, TrainingJournal, trainings
from tests.support.histories import SCORES, A, B, cell, write_run
from tests.support.kernel_files import KERNELS, of_commit, write
from tests.support.stores import environment


def train(store: Path, machine: str = "ci") -> Path:
    journal = TrainingJournal.create(store)
    axes: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5, "seed": 0}
    axes |= {"step_size": 0.01, "device": "cpu", "dtype": "float32", "outer": {"steps": 5}}
    journal.start(environment(A, machine=machine), Training("maml", **axes))
    journal.evaluation(5, "test", {"outer_loss": [1.0, 2.0]}, seconds=1.0)
    journal.end()
    return journal.path


def write_asv(store: Path, commit: str, machine: str, **about: Any) -> Path:
    """Write files as asv has them, as far as a merge looks at them."""
    folder = store / "asv" / machine
    write(folder / "machine.json", {"machine": machine, "arch": "x86_64", **about})
    write(store / "asv" / "benchmarks.json", {"version": 2})
    return write(folder / f"{commit[:8]}-virtualenv.json", {"commit_hash": commit, "results": {}})


def filled(folder: Path, machine: str = "ci") -> Path:
    """Return a store with results of all kinds."""
    write_run(folder, A, {cell(): SCORES}, machine=machine)
    write_run(folder, B, {cell(): SCORES, cell("fomaml"): SCORES}, machine=machine)
    train(folder, machine)
    for commit in (A, B):
        write_asv(folder, commit, machine)
    write(folder / "benchmarks" / "any-name.json", of_commit(KERNELS, A, 1.0, machine=machine))
    return folder


def contents(store: Path) -> dict[str, bytes]:
    """Return the contents of all files of a store, hidden ones too, by their path in it."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def problems(store: Path) -> list[Problem]:
    """Return the problems of all readers of a store."""
    runs = load(store)[1] if (store / "runs").exists() else []
    return runs + trainings(store)[1] + read_kernels(store)[1]


def reasons(merged: Merged) -> list[str]:
    return [one.what for one in merged.left_out]


def journal(store: Path, lines: int = 2) -> Path:
    """Write a run without an end."""
    run = Journal.create(store)
    run.start(environment(A), cells=1)
    for number in range(lines - 1):
        run.resume({"n": number})
    run.close()
    return run.path
