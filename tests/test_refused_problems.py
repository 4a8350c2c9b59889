"""Problems of which estimates would be wrong are refused, unless an option says otherwise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from estimators.base.errors import OptionError, UserError
from harness.cell import Cell
from harness.commands.run import run
from harness.conformance import suite
from harness.conformance.cases import exact_gradient
from harness.conformance.suite import Finding, Score, Verdict
from harness.matrix.pretraining import META_BATCH
from harness.matrix.problems import checkpoint
from harness.models import MODELS, Model
from harness.models.mlp import Mlp
from harness.probes.references import load_reference, save_reference
from harness.store.table import load
from harness.tasks import TASKS, Task
from harness.tasks.sinusoid import Sinusoid
from harness.training.config import TrainingConfig
from harness.training.parallel import train_one
from tests.support.invocation import invoke

PLUGIN = """
from dataclasses import dataclass
from torch import nn
from harness.models import MODELS, Model

@MODELS.register("draws")
@dataclass(frozen=True)
class Draws(Model):
    def module(self, family):
        return nn.Sequential(nn.Linear(1, 8), nn.RReLU(), nn.Linear(8, 1))
"""
REFUSED = "RReLU.*draws random numbers.*--no-problem-check"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    checkpoint.cache_clear()


class Draws(Model):
    """A model that draws at each call."""

    def module(self, family: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 8), nn.RReLU(), nn.Linear(8, 1))


@pytest.fixture
def cell() -> Cell:
    MODELS.register("draws")(Draws)
    return Cell.of(estimator="fomaml", task="sinusoid", model="draws", depth=1, num_tasks=1)


def test_references_refuse_it(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "exact.pt"
    with pytest.raises(OptionError, match=REFUSED):
        save_reference(cell.group, path)
    save_reference(cell.group, path, check=False)
    assert load_reference(path, "cpu").gradients
    # Before any exact meta-training, too.
    drawn: list[int] = []
    usual = Sinusoid.sample

    def sample(self: Sinusoid, seed: int, split: str = "train") -> Task:
        drawn.append(seed)
        return usual(self, seed, split)

    monkeypatch.setattr(Sinusoid, "sample", sample)
    with pytest.raises(OptionError, match=REFUSED):
        save_reference(replace(cell.group, trained=50), path)
    assert len(drawn) <= META_BATCH


def test_trainings_refuse_it(cell: Cell, tmp_path: Path) -> None:
    short: dict[str, Any] = {"steps": 1, "validation_tasks": 1, "test_tasks": 2}
    config = TrainingConfig(cell, **short)
    with pytest.raises(OptionError, match=REFUSED):
        train_one(tmp_path, config, (), True, False)
    assert train_one(tmp_path / "unchecked", config, (), False, False).test


def test_checks_of_estimators_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mlp, "module", Draws.module)
    monkeypatch.setattr(suite, "exact_gradient", exact_gradient.__wrapped__)  # others' are cached
    found = suite._score("fomaml", "sinusoid/mlp-40-40", True)
    assert isinstance(found, Finding)
    assert found.verdict is Verdict.FAILED
    assert "--no-problem-check" in found.reason
    assert isinstance(suite._score("fomaml", "sinusoid/mlp-40-40", False), Score)


def test_the_run_says_it_for_each_estimator(tmp_path: Path) -> None:
    plugin = tmp_path / "draws.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    store = tmp_path / "store"
    words = ["--import", plugin, "--task", "sinusoid", "--model", "draws", "--depth", 1]
    words += ["--samples", 0, "--tasks", 1, "--store", store]
    words += ["--estimator", "fomaml", "--estimator", "maml"]
    with pytest.raises(UserError, match="no cell could be measured"):
        invoke(run, *words)
    table = load(store)[0].drop_duplicates("cell")
    assert list(table["outcome"]) == ["failed"] * 2
    assert table["reason"].str.fullmatch(rf"{REFUSED}.*").all()
    assert invoke(run, *words, "--no-problem-check")[0] == 0


def test_a_task_that_ignores_its_seed_is_refused(tmp_path: Path) -> None:
    class Unseeded(Sinusoid):
        """Draw anew each time."""

        def sample(self, seed: int, split: str = "train") -> Task:
            x = torch.randn(5, 1)
            return Task((x, x), (x, x))

    TASKS.register("unseeded")(Unseeded)
    cell = Cell.of(estimator="fomaml", task="unseeded", model="mlp-40-40", depth=1, num_tasks=1)
    with pytest.raises(OptionError, match="seed"):
        save_reference(cell, tmp_path / "reference")
