"""`torchrun -m harness train`: tasks of a meta-batch over processes, one of them killed."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from estimators.base.errors import OptionError
from harness.store.trainings import trainings
from harness.training.config import TrainingConfig
from harness.training.distributed import Ranks
from harness.training.parallel import train_one
from tests.test_train_command import TINY, numbers, steps_there, weights
from tests.test_training import cell_of

ROOT = Path(__file__).parent.parent


def started(folder: Path, count: int, *arguments: str) -> "subprocess.Popen[str]":
    """Starts so many processes that train together, which begin again if one is lost."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    where = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--max-restarts=2"]
    return subprocess.Popen(
        [*launch, *where, "--monitor-interval=0.2", "-m", "harness", "train", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("estimator", ["maml", "binom-calibrated(order=2, refit_every=7)"])
def test_it_trains_as_one_process(tmp_path: Path, estimator: str) -> None:
    precise = ("--dtype", "float64", "--bias-every", "20", "--meta-batch", "5")
    arguments = ("--estimator", estimator, *TINY, "--steps", "40", *precise)
    out = ended(started(tmp_path / "two", 2, *arguments))
    assert out.count("seed  steps  best") == 1  # told by one of them
    alone = subprocess.run(
        [sys.executable, "-m", "harness", "train", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    assert alone.returncode == 0
    mine, its = weights(tmp_path / "two" / "results"), weights(tmp_path / "results")
    for name, value in its.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-9)
    there, here = numbers(tmp_path / "two" / "results"), numbers(tmp_path / "results")
    assert there.keys() == here.keys()
    for key, values in here.items():
        if key[-1] != "peak_memory":  # of a share of the tasks
            assert there[key] == pytest.approx(values, rel=1e-6, abs=1e-9)
    assert len([*(tmp_path / "two" / "results" / "trainings").glob("*.jsonl")]) == 1


def test_one_of_them_killed_it_comes_to_the_same_end(tmp_path: Path) -> None:
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "300")
    ended(started(tmp_path / "whole", 2, *arguments))
    process = started(tmp_path / "killed", 2, *arguments)
    while steps_there(tmp_path / "killed" / "results") < 100:
        time.sleep(0.02)
        assert process.poll() is None
    victim = psutil.Process(process.pid).children()[-1]
    victim.kill()
    ended(process)
    mine, its = (weights(tmp_path / name / "results") for name in ("killed", "whole"))
    assert all(torch.equal(mine[name], its[name]) for name in its)
    assert numbers(tmp_path / "killed" / "results") == numbers(tmp_path / "whole" / "results")
    told = trainings(tmp_path / "killed" / "results")[1]
    assert not told


def test_more_processes_than_tasks_are_refused(tmp_path: Path) -> None:
    recipe = TrainingConfig(
        cell_of("fomaml"), steps=2, meta_batch=2, validation_tasks=1, test_tasks=1
    )
    with pytest.raises(OptionError, match="3 processes are more than the 2 tasks"):
        train_one(tmp_path, recipe, (), False, ranks=_Alone(0, 3))


class _Alone(Ranks):
    """One of several, the others of which are not there."""

    def first(self, make):  # type: ignore[no-untyped-def]
        """Makes it."""
        return make()
