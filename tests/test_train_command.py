"""`metagrad train`: killed, interrupted, asked again, asked for what cannot be."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators.base.errors import OptionError
from harness.commands.train import train
from harness.store.trainings import trainings
from tests.support.invocation import invoke

ROOT = Path(__file__).parent.parent
TINY = (
    *("--task", "sinusoid", "--model", "mlp-40-40", "--validate-every", "20"),
    *("--validation-tasks", "3", "--test-tasks", "5"),
)
CALIBRATED = "binom-calibrated(order=2, refit_every=30, probes=3)"


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from harness.cli import main; main()", "train", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_there(store: Path) -> int:
    """The newest step of a store that was judged; -1 before the first."""
    table = trainings(store)[0]
    return int(table["step"].max()) if len(table) else -1


def weights(store: Path) -> dict[str, torch.Tensor]:
    (path,) = (store / "trainings").glob("*.pt")
    content = path.read_bytes()[32:]
    (store / "payload").write_bytes(content)
    told: dict[str, dict[str, torch.Tensor]] = torch.load(store / "payload", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in told["params"].values())
    return told["params"] | {f"best {name}": value for name, value in told["best_params"].items()}


def numbers(store: Path) -> dict[Any, list[float]]:
    table = trainings(store)[0]
    table = table[table["metric"] != "step_time"]
    keys = zip(table["step"], table["split"], table["metric"], strict=True)
    return dict(zip(keys, table["samples"], strict=True))


def test_killed_again_and_again_it_comes_to_the_same_end(tmp_path: Path) -> None:
    arguments = ("--estimator", CALIBRATED, *TINY, "--steps", "200", "--bias-every", "100")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder in (alone, killed):
        folder.mkdir()
    assert started(alone, *arguments).wait(300) == 0
    moments = random.Random(0)
    for kill in range(4):
        process = started(killed, *arguments)
        while process.poll() is None and steps_there(killed / "results") < 40 * kill:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.05)
        process.kill()
        process.communicate()
    process = started(killed, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Going on with" in out
    mine, its = weights(killed / "results"), weights(alone / "results")
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in its)
    assert numbers(killed / "results") == numbers(alone / "results")
    assert len([*(killed / "results" / "trainings").glob("*.jsonl")]) == 1


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "20000")
    process = started(tmp_path, *arguments)
    while steps_there(tmp_path / "results") < 20:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped; 0 of 1 training are done, in results/trainings, and the same command" in err
    assert "Traceback" not in err


def test_what_is_done_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    both = ("--estimator", "fomaml", "--estimator", "reptile")
    arguments = (*both, *TINY, "--steps", "20", "--seed", "0", "--seed", "1")
    code, out, _ = invoke(train, *arguments)
    assert code == 0
    rows = [line.split() for line in out.splitlines()[-4:]]
    assert [row[:3] for row in rows] == [
        ["fomaml", "0", "20"],
        ["reptile", "0", "20"],
        ["fomaml", "1", "20"],
        ["reptile", "1", "20"],
    ]
    before = sorted(Path("results/trainings").iterdir())
    code, again, _ = invoke(train, *arguments)
    assert code == 0
    assert again.splitlines()[-4:] == out.splitlines()[-4:]
    assert again.count("done already") == 4
    assert sorted(Path("results/trainings").iterdir()) == before
    code, _, _ = invoke(train, *arguments, "--fresh")
    assert len([*Path("results/trainings").iterdir()]) == 2 * len(before)


def test_what_diverges_ends_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wild = (*TINY, "--steps", "200", "--optimiser", "sgd", "--learning-rate", "1e9")
    code, _, err = invoke(train, "--estimator", "fomaml", *wild)
    assert code == 2
    assert "fomaml, seed 0: diverged: the estimate of step" in err
    (path,) = Path("results/trainings").glob("*.jsonl")
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events[-2:] == ["failed", "end"]
    code, _, again = invoke(train, "--estimator", "fomaml", *wild)
    assert code == 2
    assert "diverged: the estimate of step" in again
    assert "--fresh trains anew" in again
    assert [*Path("results/trainings").glob("*.jsonl")] == [path]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--estimator", "nomaml", *TINY), "unknown estimator 'nomaml'"),
        (("--estimator", "binom(order=9)", *TINY), "order=9 is outside 0..5"),
        (("--estimator", "fomaml", *TINY, "--bias-every", "30"), "must be a multiple"),
        (("--estimator", "fomaml", *TINY, "--device", "cuda:7"), "cuda:7: "),
        (
            ("--estimator", "fomaml", "--task", "sinusoid", "--model", "conv4-32"),
            "conv4 needs images",
        ),
        (
            ("--estimator", "fomaml", "--task", "glyphs(ways=90)", "--model", "conv4-32"),
            "ways=90 is more than the 59 classes of the validation split",
        ),
    ],
)
def test_slips_are_told_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as raised:
        invoke(train, *arguments)
    assert what in str(raised.value)
    assert not [*tmp_path.iterdir()]


def test_a_broken_checkpoint_is_told_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--estimator", "fomaml", *TINY, "--steps", "20")
    invoke(train, *arguments)
    (journal,) = Path("results/trainings").glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # as if it had been killed before its end
    file = journal.with_suffix(".pt")
    file.write_bytes(b"something else")
    before = journal.read_bytes()
    code, _, err = invoke(train, *arguments)
    assert code == 2
    assert "is no checkpoint, or a broken one; --fresh begins" in err
    assert journal.read_bytes() == before
    assert file.read_bytes() == b"something else"
    assert invoke(train, *arguments, "--fresh")[0] == 0
    assert file.read_bytes() == b"something else"
