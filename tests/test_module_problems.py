"""Problems of an `nn.Module` are those that one would write by hand, and leave the module alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from estimators import BilevelProblem, OptionError, Params, create, trainable
from estimators.base.module_loss import Batch
from tests.support.modules import (
    SPECS,
    by_hand,
    conv_net,
    image_problem,
    images,
    mlp,
    problem_of,
    regression,
    seeded,
)
from tests.support.oracle import Loss, flatten, relative_error


def assert_same(spec: str, one: BilevelProblem, other: BilevelProblem, params: Params) -> None:
    """Check that an estimator gives the same result on two problems."""
    results = [create(spec)(problem, params) for problem in (one, other)]
    counts = [(result.hvps, result.serial_depth) for result in results]
    assert counts[0] == counts[1], spec
    result, expected = results
    assert list(result.gradient) == list(expected.gradient), spec
    assert relative_error(result.gradient, flatten(expected.gradient)) < 1e-12, spec
    assert relative_error(result.adapted, flatten(expected.adapted)) < 1e-12, spec
    assert float(result.outer_loss) == pytest.approx(float(expected.outer_loss), rel=1e-12), spec


def test_problems_of_networks_are_those_written_by_hand() -> None:
    module, images_module = mlp(), conv_net()

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            hidden = torch.tanh(batch[0] @ p["0.weight"].T + p["0.bias"])
            return functional.mse_loss(hidden @ p["2.weight"].T + p["2.bias"], batch[1])

        return value

    def image_loss(batch: Batch) -> Loss:
        return lambda p: functional.cross_entropy(
            functional_call(images_module, p, (batch[0],)), batch[1]
        )

    for spec in SPECS:
        hand = by_hand(loss, regression)
        assert_same(spec, problem_of(module), hand, trainable(module))
        hand = by_hand(image_loss, images)
        assert_same(spec, image_problem(images_module), hand, trainable(images_module))


def test_frozen_parameters_are_constants() -> None:
    module = mlp()
    for name in ("0.weight", "0.bias"):
        module.get_parameter(name).requires_grad_(False)
    weight, bias = (module.get_parameter(name).detach().clone() for name in ("0.weight", "0.bias"))

    def loss(batch: Batch) -> Loss:
        features, targets = torch.tanh(batch[0] @ weight.T + bias), batch[1]
        return lambda p: functional.mse_loss(features @ p["2.weight"].T + p["2.bias"], targets)

    params = trainable(module)
    assert list(params) == ["2.weight", "2.bias"]
    for name, parameter in params.items():
        assert not parameter.requires_grad
        assert parameter.data_ptr() == module.get_parameter(name).data_ptr()
    for spec in SPECS:
        assert_same(spec, problem_of(module), by_hand(loss, regression), params)
    assert module.get_parameter("0.weight").grad is None
    assert torch.equal(module.get_parameter("0.weight"), weight)


def test_tied_weights_move_together() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    module[2].weight = module[0].weight
    seeded(module)

    def batch(seed: int) -> Batch:
        inputs = regression(seed)[0]
        return inputs, inputs.cos()

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            tied = p["0.weight"]
            return functional.mse_loss(torch.tanh(batch[0] @ tied.T) @ tied.T, batch[1])

        return value

    params = trainable(module)
    assert list(params) == ["0.weight"]
    problem = problem_of(module, functional.mse_loss, batch(1), batch(2))
    for spec in SPECS:
        assert_same(spec, problem, by_hand(loss, batch), params)
    assert module[2].weight is module[0].weight


def test_running_statistics_are_refused_while_they_change() -> None:
    for layer in (
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ):
        with pytest.raises(OptionError, match=rf"{type(layer).__name__} '1'"):
            image_problem(conv_net(layer))
        image_problem(conv_net(layer).eval())
    norm = nn.BatchNorm2d(3)
    norm.track_running_stats = False
    fresh = conv_net()
    assert_same("maml", image_problem(conv_net(norm)), image_problem(fresh), trainable(fresh))


def normalised(norm: nn.Module, p: Params, x: Tensor) -> Tensor:
    """Normalise by the formula, with the scale and shift of the second layer."""
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or variance is None:
        axes = {nn.GroupNorm: (1, 2, 3), nn.InstanceNorm2d: (2, 3)}.get(type(norm), (0, 2, 3))
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    else:
        mean, variance = mean.reshape(1, 3, 1, 1), variance.reshape(1, 3, 1, 1)
    scale, shift = p["1.weight"].reshape(1, 3, 1, 1), p["1.bias"].reshape(1, 3, 1, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def settled(norm: nn.Module) -> nn.Module:
    """Return a normalisation in evaluation mode whose running statistics are not the default."""
    norm.get_buffer("running_mean").fill_(0.3)
    norm.get_buffer("running_var").fill_(2.0)
    return norm.eval()


def test_normalisations_are_differentiated_through() -> None:
    for norm in (
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
        settled(nn.BatchNorm2d(3)),
        nn.InstanceNorm2d(3, affine=True),
        settled(nn.InstanceNorm2d(3, affine=True, track_running_stats=True)),
        nn.GroupNorm(1, 3),
    ):
        module = conv_net(norm)

        def loss(batch: Batch, norm: nn.Module = norm) -> Loss:
            def value(p: Params) -> Tensor:
                x = functional.conv2d(batch[0], p["0.weight"], p["0.bias"])
                x = functional.softplus(normalised(norm, p, x)).flatten(1)
                return functional.cross_entropy(x @ p["4.weight"].T + p["4.bias"], batch[1])

            return value

        for spec in ("maml", "binom(order=2)"):
            expected = create(spec)(by_hand(loss, images), trainable(module))
            result = create(spec)(image_problem(module), trainable(module))
            error = relative_error(result.gradient, flatten(expected.gradient))
            assert error < 1e-10, (norm, spec)


def state(module: nn.Module) -> list[Any]:
    tensors = [*module.parameters(), *module.buffers()]
    grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return [
        [tensor.detach().clone() for tensor in tensors],
        grads,
        [tensor.requires_grad for tensor in tensors],
        [part.training for part in module.modules()],
        [id(tensor) for tensor in tensors],
    ]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_module_is_left_as_it_is(mode: bool) -> None:
    module = conv_net(settled(nn.BatchNorm2d(3)))
    module.train(mode)
    module[1].eval()  # type: ignore[index]
    module.get_parameter("0.bias").requires_grad_(False)
    module.get_parameter("0.weight").grad = torch.ones(3, 1, 3, 3, dtype=torch.float64)
    module.register_buffer("other", torch.ones(2))
    before = state(module)
    for spec in SPECS:
        create(spec)(image_problem(module), trainable(module))
        torch.testing.assert_close(state(module), before, rtol=0, atol=0, msg=spec)
