"""Models: their sizes, their initial parameters, and what they leave alone."""

import pytest
import torch
from torch import nn

from estimators import OptionError
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.models import MODELS
from harness.tasks import TASKS

SETTINGS = [
    ("sinusoid", "mlp-40-40"),
    ("sinusoid", "mlp-40-40(init='torch')"),
    ("glyphs:5way-1shot", "conv4-16"),
    ("quadratic", "linear"),
]


def build(task: str, model: str, seed: int = 0) -> nn.Module:
    return MODELS.create(model).build(TASKS.create(task), seed)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_parameter_count() -> None:
    for task, model, count in (
        ("sinusoid", "mlp-40-40", 1761),
        ("sinusoid", "mlp-256-256-256", 2 * 256 + 2 * 256 * 257 + 257),
        ("glyphs:5way-1shot", "conv4-32", 28485),
        ("glyphs:20way-5shot", "conv4-64", 9 * 64 + 3 * 9 * 64 * 64 + 4 * 3 * 64 + 65 * 20),
        ("quadratic(dimension=9)", "linear", 9),
    ):
        assert len(weights(build(task, model))) == count, model


def test_init_of_maml_is_small_and_cut_off() -> None:
    for name, value in build("sinusoid", "mlp-40-40").state_dict().items():
        assert float(value.abs().max()) <= (0 if name.endswith("bias") else 0.02)
    wide = build("sinusoid", "mlp-256-256-256")
    # The standard deviation of a normal distribution of .01, cut off at two of them.
    matrix = next(value for value in wide.state_dict().values() if value.shape == (256, 256))
    assert float(matrix.std()) == pytest.approx(0.00880, rel=0.02)


def test_init_of_torch_is_torchs_own() -> None:
    module = build("sinusoid", "mlp-40-40(init='torch')", seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        own = nn.Sequential(nn.Linear(1, 40), nn.Linear(40, 40), nn.Linear(40, 1))
    assert torch.equal(weights(module), weights(own))
    assert float(weights(module).abs().max()) > 0.1


def test_seed_names_the_weights_and_leaves_the_global_generator_as_it_was() -> None:
    for task, model in SETTINGS:
        torch.manual_seed(3)
        before = torch.get_rng_state()
        once = weights(build(task, model, seed=7))
        assert torch.equal(torch.get_rng_state(), before), model
        torch.rand(5)
        assert torch.equal(weights(build(task, model, seed=7)), once), model
        assert not torch.equal(weights(build(task, model, seed=8)), once), model


def test_float64_has_the_values_of_float32() -> None:
    for task, model in SETTINGS:
        cell = Cell.of(estimator="maml", task=task, model=model, depth=1)
        losses = []
        for dtype in (torch.float32, torch.float64):
            problem, params = bilevel_problem(cell, 0, dtype=dtype, device="cpu")
            assert {value.dtype for value in params.values()} == {dtype}, model
            assert not any(value.requires_grad for value in params.values()), model
            losses.append(problem.inner_loss(params))
            assert losses[-1].dtype == dtype, model
        low = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")[1]
        assert all(torch.equal(low[name].double(), params[name]) for name in params), model
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-4), model


def test_conv4_needs_images() -> None:
    for model, task, fits in (
        ("conv4-32", "sinusoid", False),
        ("conv4-32", "noise(size=15)", False),
        ("conv4-32", "glyphs", True),
        ("mlp-40-40", "sinusoid", True),
    ):
        reason = MODELS.create(model).unsupported_reason(TASKS.create(task))
        assert (reason is None) == fits, (model, task)
        if reason is not None:
            assert "16x16" in reason
            with pytest.raises(OptionError, match="conv4 needs images"):
                build(task, model)


def test_batch_normalisation_keeps_no_statistics() -> None:
    module = build("glyphs:5way-1shot", "conv4-16")
    assert not list(module.buffers())
    images = TASKS.create("glyphs:5way-1shot").sample(0).query[0].float()
    first = module(images)
    module(torch.zeros_like(images))
    module.eval()
    assert torch.equal(module(images), first)
