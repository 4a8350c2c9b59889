"""Meta-training against the same written by hand; its records, its end, its failures."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators import create
from estimators.base.errors import OptionError, UserError
from harness.cell import Cell
from harness.matrix.problems import TASKS_A_SEED, Sampler
from harness.models.mlp import Mlp
from harness.store.trainings import trainings
from harness.tasks import TASKS, Task
from harness.tasks.sinusoid import Sinusoid
from harness.training.checkpoints import Checkpoint
from harness.training.config import TrainingConfig as Config
from harness.training.evaluation import evaluate
from harness.training.session import TestResult, begin, end_of
from harness.training.trainer import Trainer
from tests.support.trainings import adapted, linear, loss_of, mlp, numbers, trained

SHORT: dict[str, Any] = {"steps": 12, "validate_every": 4, "validation_tasks": 3, "test_tasks": 5}


def cell_of(estimator: str = "maml", **changed: Any) -> Cell:
    axes: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5}
    axes |= {"dtype": "float64"} | changed
    return Cell.of(estimator=estimator, **axes)


def finished(store: Path, config: Config) -> tuple[Trainer, Path]:
    """Train to the end; return the trainer and its journal."""
    session = begin(store, config)
    assert session.journal
    trainer = Trainer(config, session.journal, session.checkpoint, session.digest)
    trainer.train()
    session.journal.end()
    return trainer, session.path


def test_exact_training_is_that_written_by_hand(tmp_path: Path) -> None:
    images = {"task": "glyphs(ways=3, shots=2, queries=4)", "model": "linear"}
    for number, (cell, forward) in enumerate([(cell_of(seed=3), mlp), (cell_of(**images), linear)]):
        trainer, _ = finished(tmp_path / str(number), Config(cell, **SHORT))
        sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
        weights: list[torch.Tensor] = list(sampler.module.parameters())
        expected = trained(forward, weights, task=cell.task, steps=12, seed=cell.seed)
        for value, other in zip(trainer.state.params.values(), expected, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)


def test_evaluation_is_that_written_by_hand() -> None:
    for task, model, forward in [
        ("sinusoid", "mlp-40-40", mlp),
        ("glyphs(ways=4, shots=2)", "linear", linear),
    ]:
        cell = cell_of(task=task, model=model, seed=2)
        sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
        theta = {name: value.detach() for name, value in sampler.module.named_parameters()}
        problems = [sampler.problem(index, "test", depth=7) for index in range(60)]
        both = [evaluate(problems, theta, batching) for batching in ("loop", "vmap")]
        for index in (0, 1, 49, 50, 59):
            drawn = TASKS.create(task).sample(2 * TASKS_A_SEED + index, "test")
            weights = [value.clone().requires_grad_() for value in theta.values()]
            phi = adapted(forward, weights, drawn.support, depth=7, alpha=cell.step_size)
            outputs, targets = forward(phi, drawn.query[0]).detach(), drawn.query[1]
            loss = float(loss_of(outputs, targets))
            for samples in both:
                assert len(samples["outer_loss"]) == 60
                assert samples["outer_loss"][index] == pytest.approx(loss), (task, index)
                assert ("accuracy" in samples) == task.startswith("glyphs")
                if "accuracy" in samples:
                    right = outputs.argmax(-1) == targets
                    assert samples["accuracy"][index] == pytest.approx(float(right.double().mean()))


def test_records_have_every_metric_at_its_steps(tmp_path: Path) -> None:
    _, path = finished(tmp_path, Config(cell_of("fomaml"), **SHORT, bias_every=8, bias_tasks=2))
    table, problems = trainings(tmp_path)
    assert not problems
    keys = [*zip(table["step"], table["split"], table["metric"], strict=True)]
    values = dict(zip(keys, table["value"], strict=True))
    steps = {split: sorted({key[0] for key in keys if key[1] == split}) for _, split, _ in keys}
    (best,) = steps.pop("test")
    assert steps == {"train": [0, 4, 8, 12], "validation": [0, 4, 8, 12]}
    losses = {step: values[step, "validation", "outer_loss"] for step in steps["validation"]}
    assert best == min(losses, key=losses.__getitem__)
    counts = dict(zip(keys, map(len, table["samples"]), strict=True))
    assert counts[best, "test", "outer_loss"] == 5
    assert [key[0] for key in keys if key[2] == "bias"] == [0, 8]
    assert counts[8, "train", "bias"] == counts[8, "train", "cosine_distance"] == 2
    assert 0.01 < values[0, "train", "curvature"] < 1
    assert values[0, "train", "peak_memory"] > 1000
    assert values[12, "train", "step_time"] > 0
    assert set(table["outer"]) == {
        "learning_rate=own, meta_batch=4, optimiser=adam, patience=0, steps=12, test_depth=10, "
        "test_tasks=5, validate_every=4, validation_tasks=3"
    }
    assert end_of(path)


def test_bias_is_that_of_the_estimator_in_use(tmp_path: Path) -> None:
    short = SHORT | {"steps": 1, "validate_every": 1, "bias_every": 1, "bias_tasks": 3}
    cell = cell_of("binom(order=5)", step_size=0.1, model="mlp-40-40(init='torch')")
    biases = []
    for estimator in ("binom(order=5)", "binom(order=2)"):
        finished(tmp_path / estimator, Config(replace(cell, estimator=estimator), **short))
        table = trainings(tmp_path / estimator)[0]
        biases.append(table.query("metric == 'bias'")["value"].to_list())
    exact, plain = biases
    assert max(exact) < 1e-12
    assert min(plain) > 1e-3


def test_bias_of_maps_is_measured_though_they_have_no_curvature(tmp_path: Path) -> None:
    short = SHORT | {"steps": 1, "validate_every": 1, "bias_every": 1, "bias_tasks": 2}
    cell = cell_of("adjoint", task="trajectory(inner='admm')", model="controls", step_size=None)
    result, _ = finished(tmp_path, Config(cell, **short))
    table, _ = trainings(tmp_path)
    assert max(table.query("metric == 'bias'")["value"]) < 1e-12
    assert "curvature" not in set(table["metric"])
    assert ["alpha lambda_max" in note for note in result.notes] == [True]


def test_neither_stops_nor_measuring_bias_change_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.training.trainer._SAVE_EVERY", -1.0)  # saved at every step
    cell = cell_of("binom-chebyshev(order=2)")
    short = SHORT | {"steps": 8}
    config = Config(cell, **short, bias_every=4, bias_tasks=2, patience=9)
    whole, path = finished(tmp_path / "whole", config)
    without_bias, _ = finished(tmp_path / "plain", Config(cell, **short))
    for _ in range(40):
        session = begin(tmp_path / "stopped", config)
        if session.journal is None:
            break
        trainer = Trainer(config, session.journal, session.checkpoint, session.digest)
        steps = trainer.steps()
        if next(steps, None) is None:
            trainer.train()
            session.journal.end()
        steps.close()
        with suppress(OSError):
            session.journal.close()
    assert session.end == end_of(path)
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    state, expected = trainer.state, whole.state
    for name in ("best_step", "validations_since_best"):
        assert getattr(state, name) == getattr(expected, name)
    for name, value in expected.params.items():
        assert torch.equal(state.params[name], value)
        assert torch.equal(without_bias.state.params[name], value)
        assert torch.equal(state.best_params[name], expected.best_params[name])


@pytest.mark.slow
def test_a_compiled_estimator(tmp_path: Path) -> None:
    trainer, _ = finished(tmp_path / "c", Config(cell_of("fomaml(compiled=True)"), **SHORT))
    eager, _ = finished(tmp_path / "e", Config(cell_of("fomaml"), **SHORT))
    for name, value in eager.state.params.items():
        torch.testing.assert_close(trainer.state.params[name], value, rtol=1e-9, atol=1e-12)
    table = trainings(tmp_path / "c")[0]
    assert (table.loc[table["metric"] == "peak_memory", "value"] > 1000).all()


def test_frozen_parameters_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Mlp.module

    def frozen(self: Mlp, family: Any) -> torch.nn.Module:
        module = build(self, family)
        next(module.parameters()).requires_grad_(False)
        return module

    monkeypatch.setattr(Mlp, "module", frozen)
    trainer, _ = finished(tmp_path, Config(cell_of("fomaml"), **SHORT))
    assert len(trainer.state.params) == 5


def test_no_task_of_training_is_used_in_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    class Alike(Sinusoid):
        """A family that ignores the split, as users may write them."""

        def sample(self, seed: int, split: str = "train") -> Task:
            del split
            drawn.append(seed)
            return super().sample(seed)

    monkeypatch.setattr(TASKS, "create", lambda _: Alike())
    finished(tmp_path, Config(cell_of("fomaml", seed=1), **SHORT))
    training = {seed for seed in drawn if seed < 1.5 * TASKS_A_SEED}
    assert training == {TASKS_A_SEED + number for number in range(12 * 4)}
    assert len({*drawn} - training) == 3 + 5


def test_patience_ends_it(tmp_path: Path) -> None:
    # So small a rate moves nothing, and an equal validation is not a better one.
    config = Config(cell_of("fomaml"), **SHORT | {"steps": 400}, learning_rate=1e-40, patience=2)
    _, path = finished(tmp_path, config)
    end = end_of(path)
    assert isinstance(end, TestResult)
    assert (end.step, end.best_step) == (8, 0)


def test_sgd_as_outer_optimiser(tmp_path: Path) -> None:
    cell = cell_of("fomaml")
    config = Config(cell, **SHORT | {"steps": 1}, optimiser="sgd", learning_rate=0.5, meta_batch=1)
    trainer, _ = finished(tmp_path, config)
    sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
    before = {name: value.detach() for name, value in sampler.module.named_parameters()}
    gradient = create("fomaml")(sampler.problem(0), before).gradient
    for name, value in trainer.state.params.items():
        torch.testing.assert_close(value, before[name] - 0.5 * gradient[name])


def test_options() -> None:
    rates = [Config(cell_of(name)).rate for name in ("imaml(lam=100.0)", "truncated(order=2)")]
    assert rates == [5e-4, 1e-3]  # of the paper
    wrong: dict[str, list[Any]] = {
        "steps": [0, 200_000],
        "meta_batch": [0],
        "test_depth": [-1],
        "test_tasks": [10**6],
        "optimiser": ["adamw"],
        "learning_rate": [float("nan")],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(OptionError, match=str(value)):
                Config(cell_of(), **{name: value})


def test_a_finished_training_and_other_checkpoints(tmp_path: Path) -> None:
    trainer, path = finished(tmp_path, Config(cell_of("fomaml"), **SHORT))
    best = trainer.state.best_step
    trainer.state.step = 99
    trainer._score({"outer_loss": [float("nan")]})
    assert trainer.state.best_step == best
    trainer.state.best_score = float("-inf")
    trainer._score({"outer_loss": [5.0]})
    assert trainer.state.best_step == 99
    file = path.with_suffix(".pt")
    whole = file.read_bytes()
    digest, params = trainer.state.training, trainer.state.params
    smaller = {name: value[:1] for name, value in params.items()}
    for like, wanted, what in (
        (params, "another", "another training"),
        (smaller, digest, "another model"),
        ({name: value.float() for name, value in params.items()}, digest, "another model"),
    ):
        with pytest.raises(UserError, match=what):
            Checkpoint.load(file, wanted, like)
    for broken in (whole[:-7], b"", b"x" * 100, whole[:40] + b"?" + whole[41:]):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=file.name):
            Checkpoint.load(file, digest, params)
        assert file.read_bytes() == broken
