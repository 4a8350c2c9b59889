"""Meta-training: it is what it says, goes on where it stopped, and keeps its tasks to itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, Params, create, module_problem
from harness.cell import Cell
from harness.matrix import pretraining
from harness.matrix.outcome import Diverged
from harness.matrix.pretraining import META_BATCH, pretrain
from harness.matrix.problems import (
    bilevel_problem,
    bilevel_problems,
    checkpoint,
)
from harness.models import MODELS
from harness.tasks import TASKS
from harness.tasks.sinusoid import Sinusoid
from harness.tasks.task import Task

CELL = Cell.of(
    estimator="maml", task="sinusoid", model="mlp-40-40(init='torch')", depth=2, num_tasks=3
)
STEPS = 12


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of its files."""
    monkeypatch.setattr(pretraining, "_SAVED_EVERY", 5)
    use_cache(tmp_path / "cache", monkeypatch)
    return tmp_path / "cache" / "tensors"


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAGRAD_CACHE", str(folder))
    checkpoint.cache_clear()


class Chain:
    """Meta-training of a cell's model, and the steps that were taken the last time."""

    def __init__(self, cell: Cell = CELL) -> None:
        self.cell = cell
        self.steps: list[int] = []

    def batch(self, step: int) -> list[BilevelProblem]:
        self.steps.append(step)
        indices = range(META_BATCH * step, META_BATCH * (step + 1))
        return bilevel_problems(self.cell, indices, dtype=torch.float64, device="cpu")[0]

    def to(self, steps: int, origin: str = "here") -> Params:
        _, theta = bilevel_problems(self.cell, [], dtype=torch.float64, device="cpu")
        self.steps = []
        trained = pretrain(theta, self.batch, steps=steps, origin=origin)
        assert self.steps.pop(0) == 0  # looked at in any case, to tell chains apart
        return trained


def same(one: Params, other: Params) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def by_hand(problems: Callable[[int], Sequence[BilevelProblem]], theta: Params) -> Params:
    """Three steps of Adam from its formula, along gradients of the unrolled mean outer loss."""
    theta = {name: value.clone() for name, value in theta.items()}
    first = {name: torch.zeros_like(value) for name, value in theta.items()}
    second = {name: torch.zeros_like(value) for name, value in theta.items()}
    for step in range(3):
        leaves = {name: value.requires_grad_() for name, value in theta.items()}
        total = torch.zeros((), dtype=torch.float64)
        for problem in problems(step):
            phi = leaves
            for _ in range(problem.steps):
                loss = problem.inner_loss(phi)
                grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
                pairs = zip(phi.items(), grads, strict=True)
                phi = {name: value - problem.alpha * g for (name, value), g in pairs}
            total = total + problem.outer_loss(phi) / 4
        gradient = dict(zip(theta, torch.autograd.grad(total, list(leaves.values())), strict=True))
        with torch.no_grad():
            for name, g in gradient.items():
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                mean = first[name] / (1 - 0.9 ** (step + 1))
                spread = (second[name] / (1 - 0.999 ** (step + 1))).sqrt()
                theta[name] = theta[name].detach() - 1e-3 * mean / (spread + 1e-8)
    return theta


def test_steps_are_those_of_adam_along_the_exact_meta_gradient() -> None:
    chain = Chain()
    _, theta = bilevel_problems(CELL, [], dtype=torch.float64, device="cpu")
    expected = by_hand(chain.batch, theta)
    torch.testing.assert_close(chain.to(3), expected, rtol=1e-9, atol=1e-12)


def test_going_on_ends_where_going_through_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain()
    through = chain.to(STEPS)
    assert chain.steps == list(range(STEPS))
    assert same(chain.to(STEPS), through)
    assert chain.steps == []
    use_cache(tmp_path / "other", monkeypatch)
    chain.to(7)
    assert same(chain.to(STEPS), through)
    assert chain.steps == list(range(7, STEPS))
    use_cache(tmp_path / "file", monkeypatch)
    (tmp_path / "file").touch()
    assert same(chain.to(STEPS), through)
    assert chain.steps == list(range(STEPS))


def test_every_checkpoint_is_that_of_a_run_which_ends_there() -> None:
    chain = Chain()
    chain.to(STEPS)
    at_five = chain.to(5)
    assert chain.steps == []
    assert same(at_five, chain.to(5, origin="elsewhere"))
    assert chain.steps == list(range(5))
    chain.to(9)
    assert chain.steps == list(range(5, 9))


def test_what_was_killed_goes_on_from_the_last_sound_checkpoint(store: Path) -> None:
    class Killed(Chain):
        def batch(self, step: int) -> list[BilevelProblem]:
            if step == 8:
                raise KeyboardInterrupt
            return super().batch(step)

    with pytest.raises(KeyboardInterrupt):
        Killed().to(STEPS)
    chain = Chain()
    end = chain.to(STEPS)
    assert chain.steps == list(range(5, STEPS))
    assert same(end, chain.to(STEPS, origin="elsewhere"))
    for last in store.glob("*-12.pt"):  # broken checkpoints are computed anew
        last.write_bytes(last.read_bytes()[:-10])
    assert same(chain.to(STEPS), end)
    assert chain.steps == list(range(10, STEPS))


def test_other_runs_and_changed_code_share_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    chain.to(2)
    changes: list[dict[str, Any]] = [{"depth": 3}, {"step_size": 0.02}, {"seed": 1}]
    changes += [{"model": "mlp-100-100"}, {"task": "sinusoid(queries=11)"}]
    for change in changes:
        other = Chain(replace(CELL, **change))
        other.to(2)
        assert other.steps == [0, 1], change
    names = {source.name for source in pretraining._SOURCES}
    assert names == {"estimators", "pretraining.py"}
    more = (*pretraining._SOURCES, Path(__file__))
    monkeypatch.setattr(pretraining, "_SOURCES", more)
    chain.to(2)
    assert chain.steps == [0, 1]


def test_what_vmap_cannot_take_is_taken_in_a_loop() -> None:
    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = (outputs - targets).square().mean()
        return 2 * loss if loss > 0 else loss

    family = TASKS.create("sinusoid")
    module = MODELS.create("mlp-40-40(init='torch')").build(family, 0).double()

    def batch(step: int) -> list[BilevelProblem]:
        tasks = [family.sample(4 * step + i) for i in range(4)]
        sets = [(task.support, task.query) for task in tasks]
        return [module_problem(module, criterion, *each, step_size=0.01, steps=2) for each in sets]

    theta = {name: value.detach() for name, value in module.named_parameters()}
    trained = pretrain(theta, batch, steps=3, origin="here")
    torch.testing.assert_close(trained, by_hand(batch, theta), rtol=1e-9, atol=1e-12)


def test_what_does_not_stay_finite_has_diverged(store: Path) -> None:
    parts = {"estimator": "maml", "task": "quadratic(drift=10)", "model": "linear"}
    wild = Cell.of(**parts, depth=20, step_size=5.0, trained=3)
    with pytest.raises(Diverged, match=r"meta-training: .* step 0 "):
        bilevel_problem(wild, 0, dtype=torch.float64, device="cpu")
    assert not store.exists()


def test_training_lowers_the_outer_loss_of_new_tasks() -> None:
    def outer_loss(trained: int) -> float:
        problems, theta = bilevel_problems(
            replace(CELL, trained=trained), range(20), dtype=torch.float64, device="cpu"
        )
        return sum(float(create("fomaml")(p, theta).outer_loss) for p in problems)

    assert outer_loss(150) < 0.9 * outer_loss(0)


def test_cells_of_one_run_share_theta_and_a_model_keeps_it() -> None:
    trained = replace(CELL, trained=3)
    problem, theta = bilevel_problem(trained, 0, dtype=torch.float64, device="cpu")
    others = [
        replace(trained, estimator="fomaml"),
        replace(trained, num_tasks=1),
        replace(trained, dtype="float64"),
    ]
    for other in others:
        assert same(bilevel_problem(other, 1, dtype=torch.float64, device="cpu")[1], theta)
    _, rounded = bilevel_problem(trained, 0, dtype=torch.float32, device="cpu")
    assert same(rounded, {name: value.float() for name, value in theta.items()})
    # The module itself stands there, too.
    assert torch.equal(problem.inner_loss({}), problem.inner_loss(theta))


def test_nobody_is_scored_on_what_was_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: set[tuple[int, str]] = set()
    usual = Sinusoid.sample

    def sample(self: Sinusoid, seed: int, split: str = "train") -> Task:
        drawn.add((seed, split))
        return usual(self, seed, split)

    monkeypatch.setattr(Sinusoid, "sample", sample)
    every: list[set[tuple[int, str]]] = []
    for seed in (0, 1):
        cell = replace(CELL, seed=seed)
        checkpoint(replace(cell, trained=6))
        trained, drawn = drawn, set()
        bilevel_problems(cell, range(cell.num_tasks), dtype=torch.float64, device="cpu")
        scored, drawn = drawn, set()
        assert (len(trained), len(scored)) == (24, 3)
        every += [trained, scored]
    assert len(set.union(*every)) == 2 * (24 + 3)
