"""`torchrun -m harness train`: tasks of a meta-batch over processes, one of them killed."""

import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from estimators.base.errors import OptionError
from harness.commands.train import train
from harness.training.config import TrainingConfig
from harness.training.distributed import Ranks
from harness.training.parallel import train_one
from tests.support.invocation import invoke
from tests.support.trainings import numbers
from tests.test_train_command import TINY, last_step, start, weights
from tests.test_training import cell_of


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start two processes that train together, which start again if one is lost."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    where = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--max-restarts=2"]
    return start(
        folder, *launch, *where, "--monitor-interval=0.2", "-m", "harness", "train", *arguments
    )


def output(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_it_trains_as_one_process(tmp_path: Path) -> None:
    precise = ("--dtype", "float64", "--bias-every", "20", "--meta-batch", "5")
    estimator = ("--estimator", "binom-calibrated(order=2, refit_every=7)")
    arguments = (*estimator, *TINY, "--steps", "20", *precise)
    out = output(started(tmp_path, *arguments))
    assert out.count("seed  steps  best") == 1  # one of them prints
    assert invoke(train, *arguments, "--store", tmp_path / "single")[0] == 0
    shared, single = weights(tmp_path / "results"), weights(tmp_path / "single")
    for name, value in single.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-6, atol=1e-9)
    there, here = numbers(tmp_path / "results"), numbers(tmp_path / "single")
    assert there.keys() == here.keys()
    for key, values in here.items():
        if key[-1] != "peak_memory":  # of a share of the tasks
            assert there[key] == pytest.approx(values, rel=1e-6, abs=1e-9), key
    assert len([*(tmp_path / "results" / "trainings").glob("*.jsonl")]) == 1


@pytest.mark.slow
def test_one_of_them_killed_it_comes_to_the_same_end(tmp_path: Path) -> None:
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "300")
    output(started(tmp_path / "whole", *arguments))
    process = started(tmp_path / "killed", *arguments)
    while last_step(tmp_path / "killed" / "results") < 100:
        time.sleep(0.1)
        assert process.poll() is None
    psutil.Process(process.pid).children()[-1].kill()
    output(process)
    killed, whole = (weights(tmp_path / name / "results") for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert numbers(tmp_path / "killed" / "results") == numbers(tmp_path / "whole" / "results")


class _First(Ranks):
    """One of several ranks, the others of which are not there."""

    def from_first(self, make):  # type: ignore[no-untyped-def]
        return make()


def test_more_processes_than_tasks_are_refused(tmp_path: Path) -> None:
    config = TrainingConfig(
        cell_of("fomaml"), steps=2, meta_batch=2, validation_tasks=1, test_tasks=1
    )
    with pytest.raises(OptionError, match="--meta-batch"):
        train_one(tmp_path, config, (), False, ranks=_First(0, 3))
