"""Meta-training against the same written by hand; what it records, when it ends, where it fails."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators import create
from estimators.base.errors import OptionError
from harness.cell import Cell
from harness.matrix.outcome import Diverged
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
from tests.support.trainings_by_hand import adapted, linear, loss_of, mlp, trained

SHORT: dict[str, Any] = {"steps": 12, "validate_every": 4, "validation_tasks": 3, "test_tasks": 5}


def cell_of(estimator: str = "maml", **changed: Any) -> Cell:
    axes: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5}
    axes |= {"dtype": "float64"} | changed
    return Cell.of(estimator=estimator, **axes)


def weights_of(cell: Cell) -> list[torch.Tensor]:
    sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
    return list(sampler.module.parameters())


def finished(store: Path, recipe: Config) -> tuple[Trainer, Path]:
    session = begin(store, recipe)
    assert session.journal
    trainer = Trainer(recipe, session.journal, session.checkpoint, session.digest)
    trainer.train()
    session.journal.end()
    return trainer, session.path


@pytest.mark.parametrize("seed", [0, 3])
def test_exact_training_goes_as_written_by_hand(tmp_path: Path, seed: int) -> None:
    cell = cell_of(seed=seed)
    trainer, _ = finished(tmp_path, Config(cell, **SHORT))
    expected = trained(mlp, weights_of(cell), task="sinusoid", steps=12, seed=seed)
    for mine, its in zip(trainer.state.params.values(), expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)


def test_images_go_as_written_by_hand(tmp_path: Path) -> None:
    cell = cell_of(task="glyphs(ways=3, shots=2, queries=4)", model="linear")
    trainer, _ = finished(tmp_path, Config(cell, **SHORT))
    expected = trained(linear, weights_of(cell), task=cell.task, steps=12)
    (mine,), (its,) = trainer.state.params.values(), expected
    torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "model", "forward"),
    [("sinusoid", "mlp-40-40", mlp), ("glyphs(ways=4, shots=2)", "linear", linear)],
)
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_it_is_judged_as_by_hand(task: str, model: str, forward: Any, batching: Any) -> None:
    cell = cell_of(task=task, model=model, seed=2)
    sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
    theta = {name: value.detach() for name, value in sampler.module.named_parameters()}
    problems = [sampler.problem(index, "test", depth=7) for index in range(60)]
    samples = evaluate(problems, theta, batching)
    assert len(samples["outer_loss"]) == 60
    for index in (0, 1, 49, 50, 59):
        found = TASKS.create(task).sample(2 * TASKS_A_SEED + index, "test")
        weights = [value.clone().requires_grad_() for value in theta.values()]
        phi = adapted(forward, weights, found.support, depth=7, alpha=cell.step_size)
        outputs, targets = forward(phi, found.query[0]).detach(), found.query[1]
        assert samples["outer_loss"][index] == pytest.approx(float(loss_of(outputs, targets)))
        if not targets.is_floating_point():
            right = [int(row.argmax()) == int(at) for row, at in zip(outputs, targets, strict=True)]
            assert samples["accuracy"][index] == sum(right) / len(right)
    assert ("accuracy" in samples) == task.startswith("glyphs")


def test_what_it_records(tmp_path: Path) -> None:
    _, path = finished(tmp_path, Config(cell_of("fomaml"), **SHORT, bias_every=8, bias_tasks=2))
    table, problems = trainings(tmp_path)
    assert not problems
    keys = [*zip(table["step"], table["split"], table["metric"], strict=True)]
    found = dict(zip(keys, table["value"], strict=True))
    steps = {split: sorted({key[0] for key in keys if key[1] == split}) for _, split, _ in keys}
    (best,) = steps.pop("test")
    assert steps == {"train": [0, 4, 8, 12], "validation": [0, 4, 8, 12]}
    losses = {step: found[step, "validation", "outer_loss"] for step in steps["validation"]}
    assert best == min(losses, key=losses.__getitem__)
    counts = dict(zip(keys, map(len, table["samples"]), strict=True))
    assert counts[best, "test", "outer_loss"] == 5
    assert [key[0] for key in keys if key[2] == "bias"] == [0, 8]
    assert counts[8, "train", "bias"] == counts[8, "train", "cosine_distance"] == 2
    assert 0.01 < found[0, "train", "curvature"] < 1
    assert found[0, "train", "peak_memory"] > 1000
    assert found[12, "train", "step_time"] > 0
    assert set(table["outer"]) == {
        "learning_rate=own, meta_batch=4, optimiser=adam, patience=0, steps=12, test_depth=10, "
        "test_tasks=5, validate_every=4, validation_tasks=3"
    }
    assert end_of(path)


def test_bias_is_that_of_the_estimator(tmp_path: Path) -> None:
    recipe = Config(cell_of("binom(order=5)"), **SHORT, bias_every=12, bias_tasks=2)
    finished(tmp_path / "exact", recipe)
    finished(tmp_path / "other", replace(recipe, cell=cell_of("fomaml")))
    exact, other = (
        trainings(tmp_path / name)[0].query("metric == 'bias'")["value"]
        for name in ("exact", "other")
    )
    assert (exact < 1e-12).all()
    assert (other > 1e-3).all()


def recorded(store: Path) -> dict[Any, list[float]]:
    """What a store has of a training, but for how long it took."""
    table = trainings(store)[0]
    table = table[table["metric"] != "step_time"]
    keys = zip(table["step"], table["split"], table["metric"], strict=True)
    return dict(zip(keys, table["samples"], strict=True))


@pytest.mark.parametrize("estimator", ["fomaml", "binom-calibrated(order=2, refit_every=5)"])
def test_wherever_it_is_stopped_it_comes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    monkeypatch.setattr("harness.training.trainer._SAVE_EVERY", -1.0)  # saved at every step
    recipe = Config(cell_of(estimator), **SHORT, bias_every=8, bias_tasks=2, patience=9)
    alone, path = finished(tmp_path / "alone", recipe)
    for _ in range(40):
        session = begin(tmp_path / "stopped", recipe)
        if session.journal is None:
            break
        trainer = Trainer(recipe, session.journal, session.checkpoint, session.digest)
        going = trainer.steps()
        if next(going, None) is None:
            trainer.train()
            session.journal.end()
        going.close()
        with suppress(OSError):
            session.journal.close()
    assert session.end == end_of(path)
    assert recorded(tmp_path / "stopped") == recorded(tmp_path / "alone")
    state, expected = trainer.state, alone.state
    assert (state.best_step, state.validations_since_best) == (
        expected.best_step,
        expected.validations_since_best,
    )
    for name, value in expected.params.items():
        assert torch.equal(state.params[name], value)
        assert torch.equal(state.best_params[name], expected.best_params[name])


def test_a_compiled_estimator(tmp_path: Path) -> None:
    trainer, _ = finished(tmp_path / "c", Config(cell_of("fomaml(compiled=True)"), **SHORT))
    eager, _ = finished(tmp_path / "e", Config(cell_of("fomaml"), **SHORT))
    for name, value in eager.state.params.items():
        torch.testing.assert_close(trainer.state.params[name], value, rtol=1e-9, atol=1e-12)
    table = trainings(tmp_path / "c")[0]
    assert (table.loc[table["metric"] == "peak_memory", "value"] > 1000).all()


def test_one_bad_validation_is_not_the_best(tmp_path: Path) -> None:
    trainer, _ = finished(tmp_path, Config(cell_of("fomaml"), **SHORT))
    trainer._score({"outer_loss": [float("nan")]})
    assert trainer.state.best_step != 0 or trainer.state.validations_since_best
    trainer.state.best_score = float("-inf")
    trainer.state.step = 99
    trainer._score({"outer_loss": [5.0]})
    assert trainer.state.best_step == 99


def test_a_calibrated_estimator_is_judged_as_it_will_be_used(tmp_path: Path) -> None:
    cell = cell_of("binom-calibrated(order=2)", step_size=0.1, model="mlp-40-40(init='torch')")
    recipe = Config(cell, **SHORT | {"steps": 1, "validate_every": 1}, bias_every=1, bias_tasks=3)
    finished(tmp_path / "fitted", recipe)
    finished(tmp_path / "plain", replace(recipe, cell=replace(cell, estimator="binom(order=2)")))
    fitted, plain = (
        trainings(tmp_path / name)[0].query("metric == 'bias' and step == 0")["value"].item()
        for name in ("fitted", "plain")
    )
    assert fitted < 0.5 * plain


def test_what_is_frozen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Mlp.module

    def frozen(self: Mlp, family: Any) -> torch.nn.Module:
        module = build(self, family)
        next(module.parameters()).requires_grad_(False)
        return module

    monkeypatch.setattr(Mlp, "module", frozen)
    trainer, _ = finished(tmp_path, Config(cell_of("fomaml"), **SHORT))
    assert len(trainer.state.params) == 5


def test_looking_on_changes_nothing(tmp_path: Path) -> None:
    """Measuring bias does not count as use of an estimator that fits itself now and then."""
    cell = cell_of("binom-calibrated(order=2, refit_every=5, probes=3)")
    plain, _ = finished(tmp_path / "plain", Config(cell, **SHORT))
    watched, _ = finished(tmp_path / "watched", Config(cell, **SHORT, bias_every=4, bias_tasks=2))
    for mine, its in zip(plain.state.params.values(), watched.state.params.values(), strict=True):
        assert torch.equal(mine, its)


class Alike(Sinusoid):
    """A family that takes no notice of the split, as users may write them."""

    def sample(self, seed: int, split: str = "train") -> Task:
        del split
        drawn.append(seed)
        return super().sample(seed)


drawn: list[int] = []


def test_nothing_is_judged_on_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Config(cell_of("fomaml", seed=1), **SHORT)
    monkeypatch.setattr(TASKS, "create", lambda _: Alike())
    drawn.clear()
    finished(tmp_path, recipe)
    training = {seed for seed in drawn if seed < 1.5 * TASKS_A_SEED}
    judging = {seed for seed in drawn if seed >= 1.5 * TASKS_A_SEED}
    assert training == {TASKS_A_SEED + number for number in range(12 * 4)}
    assert len(judging) == 3 + 5


def test_patience_ends_it(tmp_path: Path) -> None:
    # So small a rate moves nothing, and a validation that is as good as the best is none better.
    recipe = Config(cell_of("fomaml"), **SHORT | {"steps": 400}, learning_rate=1e-40, patience=2)
    trainer, path = finished(tmp_path, recipe)
    end = end_of(path)
    assert isinstance(end, TestResult)
    assert (end.step, end.best_step) == (8, 0)
    assert trainer.state.validations_since_best == 2


def test_sgd_outside(tmp_path: Path) -> None:
    cell = cell_of("fomaml")
    recipe = Config(cell, **SHORT | {"steps": 1}, optimiser="sgd", learning_rate=0.5, meta_batch=1)
    trainer, _ = finished(tmp_path, recipe)
    sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
    before = {name: value.detach() for name, value in sampler.module.named_parameters()}
    gradient = create("fomaml")(sampler.problem(0), before).gradient
    for name, value in trainer.state.params.items():
        torch.testing.assert_close(value, before[name] - 0.5 * gradient[name])


def test_what_diverges_says_at_which_step(tmp_path: Path) -> None:
    recipe = Config(cell_of("fomaml"), **SHORT | {"steps": 400}, optimiser="sgd", learning_rate=1e6)
    session = begin(tmp_path, recipe)
    assert session.journal
    trainer = Trainer(recipe, session.journal, session.checkpoint, session.digest)
    with pytest.raises(Diverged, match=r"the estimate of step \d+ is not finite"):
        trainer.train()
    session.journal.failed("it is too much")
    assert begin(tmp_path, recipe).end == "it is too much"


def test_reference_hyperparameters() -> None:
    recipe = Config(cell_of("imaml(lam=100.0)"))
    assert recipe.rate == pytest.approx(5e-4)
    assert Config(cell_of("truncated(order=2)")).rate == pytest.approx(1e-3)
    assert (recipe.steps, recipe.meta_batch, recipe.test_depth) == (20_000, 4, 10)
    assert (recipe.cell.step_size, recipe.test_tasks, recipe.optimiser) == (0.01, 600, "adam")


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ({"steps": 0}, "steps 0 must be 1 or more"),
        ({"meta_batch": 0}, "meta batch 0 must be 1 or more"),
        ({"test_depth": -1}, "test depth -1 must be 0 or more"),
        ({"optimiser": "adamw"}, "unknown optimiser 'adamw'; there are adam and sgd"),
        ({"learning_rate": float("nan")}, "learning rate nan must be positive"),
        ({"steps": 200_000}, "are more than the 500,000 training tasks of a seed"),
    ],
)
def test_slips_are_told(option: dict[str, Any], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        Config(cell_of(), **option)


def test_another_checkpoint_is_refused_and_stays(tmp_path: Path) -> None:
    recipe = Config(cell_of("fomaml"), **SHORT)
    trainer, path = finished(tmp_path, recipe)
    file = path.with_suffix(".pt")
    whole = file.read_bytes()
    digest, params = trainer.state.training, trainer.state.params
    smaller = {name: value[:1] for name, value in params.items()}
    for like, wanted, what in (
        (params, "another", "of another training"),
        (smaller, digest, "of another model"),
        ({name: value.float() for name, value in params.items()}, digest, "of another model"),
    ):
        with pytest.raises(OptionError, match=what):
            Checkpoint.load(file, wanted, like)
    for broken in (whole[:-7], b"", b"x" * 100, whole[:40] + b"?" + whole[41:]):
        file.write_bytes(broken)
        with pytest.raises(OptionError, match="is no checkpoint, or a broken one"):
            Checkpoint.load(file, digest, params)
        assert file.read_bytes() == broken
