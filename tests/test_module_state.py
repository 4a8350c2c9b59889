"""Modules that keep state: running statistics, buffers, dropout."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from estimators import (
    OptionError,
    Params,
    create,
    trainable,
)
from estimators.base.module_loss import Batch
from tests.support.modules import (
    SPECS,
    assert_same,
    by_hand,
    conv_net,
    image_problem,
    images,
    problem_of,
    seeded,
)
from tests.support.oracle import Loss, flatten, relative_error


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


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
        settled(nn.BatchNorm2d(3)),
        nn.InstanceNorm2d(3, affine=True),
        settled(nn.InstanceNorm2d(3, affine=True, track_running_stats=True)),
        nn.GroupNorm(1, 3),
    ],
    ids=["batch", "batch, eval", "running batch, eval", "instance", "running instance", "group"],
)
@pytest.mark.parametrize("spec", ["maml", "binom(order=2)"])
def test_other_normalisations_are_differentiated_through(spec: str, norm: nn.Module) -> None:
    norm = copy.deepcopy(norm)
    module = conv_net(norm)

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            x = functional.conv2d(batch[0], p["0.weight"], p["0.bias"])
            x = functional.softplus(normalised(norm, p, x)).flatten(1)
            return functional.cross_entropy(x @ p["4.weight"].T + p["4.bias"], batch[1])

        return value

    expected = create(spec)(by_hand(loss(images(1)), loss(images(2))), trainable(module))
    result = create(spec)(image_problem(module), trainable(module))
    assert relative_error(result.gradient, flatten(expected.gradient)) < 1e-10


def test_running_statistics_are_accepted_where_they_do_not_change() -> None:
    module = conv_net(nn.BatchNorm2d(3)).eval()
    result = create("maml")(image_problem(module), trainable(module))
    assert flatten(result.gradient).norm() > 0
    module = conv_net(nn.BatchNorm2d(3))
    module[1].track_running_stats = False  # type: ignore[index]
    fresh = conv_net(nn.BatchNorm2d(3, track_running_stats=False))
    expected = create("maml")(image_problem(fresh), trainable(fresh))
    assert_same(create("maml")(image_problem(module), trainable(module)), expected)


def state(module: nn.Module) -> list[Any]:
    tensors = [*module.parameters(), *module.buffers()]
    grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return [
        [tensor.detach().clone() for tensor in tensors],
        grads,
        [tensor.requires_grad for tensor in tensors],
        [part.training for part in module.modules()],
    ]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_module_is_left_as_it_is(spec: str, mode: bool) -> None:
    module = conv_net(settled(nn.BatchNorm2d(3)))
    module.train(mode)
    module[1].eval()  # type: ignore[index]
    module.get_parameter("0.bias").requires_grad_(False)
    module.get_parameter("0.weight").grad = torch.ones(3, 1, 3, 3, dtype=torch.float64)
    module.register_buffer("other", torch.ones(2))
    identities = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    before = state(module)
    create(spec)(image_problem(module), trainable(module))
    torch.testing.assert_close(state(module), before, rtol=0, atol=0)
    assert identities == [id(tensor) for tensor in (*module.parameters(), *module.buffers())]


def test_buffers_are_left_as_they_are_though_the_module_writes_to_them() -> None:
    module = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 2)
    )
    module.double()
    before = [buffer.clone() for buffer in module.buffers()]
    create("maml")(problem_of(module), trainable(module))
    torch.testing.assert_close(list(module.buffers()), before, rtol=0, atol=0)


def test_dropout_is_refused_while_it_draws() -> None:
    module = seeded(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)))
    with pytest.raises(OptionError, match=r"Dropout '2'"):
        problem_of(module)
    problem, params = problem_of(module.eval()), trainable(module)
    first, other = (create("maml")(problem, params).gradient for _ in range(2))
    assert torch.equal(flatten(first), flatten(other))
