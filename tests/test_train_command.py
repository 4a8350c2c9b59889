"""`metagrad train` in one process and in two: killed, interrupted, repeated, misused."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from estimators.base.errors import OptionError, UserError
from estimators.base.registry import ESTIMATORS
from harness.cell import Cell
from harness.commands.options import console
from harness.commands.train import _table, train
from harness.matrix.outcome import Outcome, Status
from harness.store.trainings import trainings
from harness.support.presets import about
from harness.training.config import TrainingConfig
from harness.training.distributed import Ranks
from harness.training.parallel import TrainingResult, train_one
from harness.training.plan import configs, preset
from harness.training.session import TestResult
from tests.support.invocation import invoke
from tests.support.trainings import numbers

ROOT = Path(__file__).parent.parent
TINY = (
    *("--task", "sinusoid", "--model", "mlp-40-40", "--validate-every", "20"),
    *("--validation-tasks", "3", "--test-tasks", "5"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, without data."""
    monkeypatch.delenv("METAGRAD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start Python with these arguments in a folder."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_step(store: Path) -> int:
    """The newest step of a store that was evaluated; -1 before the first."""
    table = trainings(store)[0]
    return int(table["step"].max()) if len(table) else -1


def weights(store: Path) -> dict[str, torch.Tensor]:
    (path,) = (store / "trainings").glob("*.pt")
    content = path.read_bytes()[32:]
    (store / "payload").write_bytes(content)
    saved: dict[str, dict[str, torch.Tensor]] = torch.load(store / "payload", weights_only=True)
    return saved["params"] | {f"best {name}": value for name, value in saved["best_params"].items()}


def test_a_test_of_one_task_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    (config,) = configs(
        {"settings": [("sinusoid", "mlp-40-40")], "depths": [1], "estimators": ["fomaml"]}
    )
    for samples, text in (([2.5], "2.5"), ([2.0, 4.0], "3 ± 2"), ([float("nan")] * 2, "nan")):
        result = TestResult(1, 1, {"outer_loss": samples})
        console.print(_table([TrainingResult(config, Outcome(Status.OK), result)]))
        assert capsys.readouterr().out.splitlines()[-1].rstrip().endswith(f" {text}")


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_and_started_again_it_comes_to_the_same_end(folder: Path, kills: int) -> None:
    steps = ("--steps", str(40 * kills), "--bias-every", "40")
    arguments = ("--estimator", "binom-chebyshev(order=2)", *TINY, *steps)
    assert invoke(train, *arguments, "--store", folder / "whole")[0] == 0
    pauses = random.Random(0)
    for kill in range(kills):
        process = start(folder, "-m", "harness", "train", *arguments)
        while process.poll() is None and last_step(folder / "results") < 20 + 40 * kill:
            time.sleep(0.1)
        time.sleep(pauses.random() * 0.05)
        process.kill()
        process.communicate()
    code, out, _ = invoke(train, *arguments)
    assert code == 0
    assert kills == 1 or "Going on with" in out
    killed, whole = weights(folder / "results"), weights(folder / "whole")
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert numbers(folder / "results") == numbers(folder / "whole")
    assert len([*(folder / "results" / "trainings").glob("*.jsonl")]) == 1


@pytest.mark.slow
def test_interrupted_it_says_what_is_done(folder: Path) -> None:
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "20000")
    process = start(folder, "-m", "harness", "train", *arguments)
    while last_step(folder / "results") < 20:
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "0 of 1 training" in err
    assert "Traceback" not in err


def test_a_finished_training_is_not_repeated_and_a_broken_checkpoint_stays(folder: Path) -> None:
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "20", "--seed", "0", "--seed", "1")
    code, out, _ = invoke(train, *arguments)
    assert code == 0
    rows = out.splitlines()[-2:]
    assert [row.split()[:3] for row in rows] == [["fomaml", "0", "20"], ["fomaml", "1", "20"]]
    before = sorted((folder / "results/trainings").iterdir())
    code, again, _ = invoke(train, *arguments)
    assert code == 0
    assert again.splitlines()[-2:] == rows
    assert again.count(".jsonl; --fresh") == 2
    assert sorted((folder / "results/trainings").iterdir()) == before
    invoke(train, *arguments, "--fresh")
    assert len([*(folder / "results/trainings").iterdir()]) == 2 * len(before)
    once = ("--estimator", "fomaml", *TINY, "--steps", "20", "--store", "other")
    invoke(train, *once)
    (journal,) = (folder / "other/trainings").glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # as if it had been killed before its end
    file = journal.with_suffix(".pt")
    file.write_bytes(b"something else")
    code, _, err = invoke(train, *once)
    assert code == 2
    assert str(file.name) in err
    assert (journal.read_text(), file.read_bytes()) == ("".join(lines[:-1]), b"something else")


def test_a_diverged_training_has_its_exit_code_and_is_not_repeated(folder: Path) -> None:
    wild = (*TINY, "--steps", "200", "--optimiser", "sgd", "--learning-rate", "1e9")
    for _ in range(2):
        code, _, err = invoke(train, "--estimator", "fomaml", *wild)
        assert code == 2
        assert "fomaml, seed 0: diverged" in err
        assert re.search(r"step \d+", err)
        (path,) = (folder / "results/trainings").glob("*.jsonl")
    assert str(path.relative_to(folder)) in err
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events[-2:] == ["failed", "end"]


def test_mistakes_are_found_before_anything_is_written(folder: Path) -> None:
    conv4 = ("--model", "conv4-32")
    for arguments, fact in [
        (("depe",), "deep"),
        (("--depth", "5"), "--estimator and --task and --model"),
        (("--estimator", "nomaml", *TINY), "nomaml"),
        (("--estimator", "binom(order=9)", *TINY), "order=9"),
        (("--estimator", "fomaml", *TINY, "--bias-every", "30"), "30"),
        (("--estimator", "fomaml", *TINY, "--device", "cpu", "--device", "cuda:7"), "cuda:7"),
        (("--estimator", "fomaml", "--task", "sinusoid"), "--model"),
        (("--estimator", "fomaml", "--task", "sinusoid", *conv4), "conv4"),
        (("--estimator", "fomaml", "--task", "glyphs(ways=90)", *conv4), "ways=90"),
        (("--estimator", "fomaml", "--task", "omniglot:5way-1shot", *conv4), "data/omniglot"),
    ]:
        with pytest.raises(UserError) as raised:
            invoke(train, *arguments)
        assert fact in str(raised.value), arguments
        assert not [*folder.iterdir()], arguments


def test_presets_and_options_that_replace_their_values() -> None:
    for name in about("harness.training"):
        values = preset(name)
        settings = len(values["settings"]) * len(values["depths"])
        count = len(values["seeds"]) * settings * len(values["estimators"])
        assert len(configs(values)) == count, name
    accuracy = {config.cell.estimator.partition("(")[0] for config in configs(preset("accuracy"))}
    assert accuracy < {*ESTIMATORS.available()} - {"adjoint"}  # which equals maml
    options = {"settings": [("sinusoid", "mlp-40-40")], "estimators": ["maml"], "seeds": [4]}
    both = configs(preset("larger") | options | {"steps": 7, "dtypes": ["float32", "float64"]})
    assert [config.cell.dtype for config in both] == ["float32", "float64"]
    for config in both:
        assert (config.cell.task, config.cell.seed) == ("sinusoid", 4)
        assert (config.steps, config.bias_every) == (7, 200)


def start_two(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
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


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    precise = ("--dtype", "float64", "--bias-every", "20", "--meta-batch", "5")
    estimator = ("--estimator", "binom-chebyshev(order=2)")
    arguments = (*estimator, *TINY, "--steps", "20", *precise)
    out = output(start_two(tmp_path, *arguments))
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
def test_one_of_two_killed_they_come_to_the_same_end(tmp_path: Path) -> None:
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "300")
    output(start_two(tmp_path / "whole", *arguments))
    process = start_two(tmp_path / "killed", *arguments)
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
    cell = Cell.of(estimator="fomaml", task="sinusoid", model="mlp-40-40", depth=5)
    config = TrainingConfig(cell, steps=2, meta_batch=2, validation_tasks=1, test_tasks=1)
    with pytest.raises(OptionError, match="--meta-batch"):
        train_one(tmp_path, config, (), True, False, ranks=_First(0, 3))
