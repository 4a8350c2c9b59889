"""Results, trainings and checkpoints of an estimator that is no more."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators.base.errors import OptionError, UserError
from harness.commands.merge import merge
from harness.commands.train import train as train_command
from harness.store.table import load
from harness.store.trainings import trainings
from harness.training.checkpoints import Checkpoint
from reports import static
from tests.support.invocation import invoke
from tests.support.merge_stores import problems
from tests.support.stores import train, write_run

SUCCESSOR, RETIRED = "binom-chebyshev(order=2)", "binom-calibrated(order=2, probes=4)"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of when the retired estimator was there."""
    folder = tmp_path / "old"
    write_run(folder, "a" * 40, {"maml": 1e-17, "fomaml": 0.3, SUCCESSOR: 0.2})
    train(folder, "maml", 0.5)
    train(folder, SUCCESSOR, 0.4)
    for path in folder.rglob("*.jsonl"):
        path.write_text(path.read_text("utf-8").replace(SUCCESSOR, RETIRED), "utf-8")
    return folder


def test_results_of_a_retired_estimator_are_shown_and_merged(store: Path, tmp_path: Path) -> None:
    report = static.render(store)
    assert f"`{RETIRED}`" in report.summary
    assert f"<td>{RETIRED}</td>" in report.page
    merged = tmp_path / "merged"
    code, _, _ = invoke(merge, store, "--store", merged)
    assert code == 0
    assert not problems(merged)
    for folder in (store, merged):
        assert RETIRED in set(load(folder)[0]["estimator"])
        assert set(trainings(folder)[0]["estimator"]) == {"maml", RETIRED}


def test_a_training_with_a_retired_estimator_is_refused_with_its_successor(store: Path) -> None:
    setting = ("--task", "sinusoid", "--model", "mlp-40-40", "--store", store)
    with pytest.raises(OptionError, match="binom-chebyshev"):
        invoke(train_command, "--estimator", RETIRED, *setting)


def test_checkpoints_of_before_open_unless_an_estimator_was_fitted(tmp_path: Path) -> None:
    path, params = tmp_path / "it.pt", {"w": torch.ones(2)}
    Checkpoint("digest", step=7, params=params).save(path)
    content: dict[str, Any] = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    for fitted in ({}, {"calibration": None, "calls": 3}):
        buffer = io.BytesIO()
        torch.save(content | {"estimator": fitted}, buffer)
        path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
        if fitted:
            with pytest.raises(UserError, match=r"calibrated.*--fresh"):
                Checkpoint.load(path, "digest", params)
        else:
            assert Checkpoint.load(path, "digest", params).step == 7
