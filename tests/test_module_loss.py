"""Problems of an `nn.Module` are those that one would write by hand, and leave the module alone."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from estimators import (
    OptionError,
    Params,
    create,
    module_problem,
    trainable,
)
from estimators.base.module_loss import Batch
from tests.support.modules import (
    SPECS,
    Draws,
    assert_same,
    by_hand,
    conv_net,
    image_problem,
    images,
    mlp,
    problem_of,
    regression,
    seeded,
)
from tests.support.oracle import Loss


@pytest.mark.parametrize("spec", SPECS)
def test_problems_of_networks_are_those_written_by_hand(spec: str) -> None:
    module, images_module = mlp(), conv_net()

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            hidden = torch.tanh(batch[0] @ p["0.weight"].T + p["0.bias"])
            return functional.mse_loss(hidden @ p["2.weight"].T + p["2.bias"], batch[1])

        return value

    def image_loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            return functional.cross_entropy(
                functional_call(images_module, p, (batch[0],)), batch[1]
            )

        return value

    for own, problem, hand in (
        (module, problem_of(module), by_hand(loss(regression(1)), loss(regression(2)))),
        (
            images_module,
            image_problem(images_module),
            by_hand(image_loss(images(1)), image_loss(images(2))),
        ),
    ):
        estimator, params = create(spec), trainable(own)
        assert_same(estimator(problem, params), estimator(hand, params))


def test_step_sizes_and_momentum_are_passed_on() -> None:
    module = mlp()
    sizes = {name: torch.full_like(value, 0.1) for name, value in trainable(module).items()}
    problem = module_problem(
        module,
        functional.mse_loss,
        regression(1),
        regression(2),
        step_size=sizes,
        steps=4,
        momentum=0.5,
    )
    assert problem.step_size is sizes
    assert (problem.steps, problem.momentum, problem.plain) == (4, 0.5, False)


def test_trainable_parameters_are_detached_views_in_order() -> None:
    module = mlp()
    module.get_parameter("0.bias").requires_grad_(False)
    found = trainable(module)
    assert list(found) == ["0.weight", "2.weight", "2.bias"]
    for name, value in found.items():
        assert not value.requires_grad
        assert value.data_ptr() == module.get_parameter(name).data_ptr()


@pytest.mark.parametrize("spec", SPECS)
def test_frozen_parameters_are_constants(spec: str) -> None:
    module = mlp()
    for name in ("0.weight", "0.bias"):
        module.get_parameter(name).requires_grad_(False)
    weight, bias = (module.get_parameter(name).detach().clone() for name in ("0.weight", "0.bias"))

    def loss(batch: Batch) -> Loss:
        features, targets = torch.tanh(batch[0] @ weight.T + bias), batch[1]
        return lambda p: functional.mse_loss(features @ p["2.weight"].T + p["2.bias"], targets)

    problem, params = problem_of(module), trainable(module)
    assert list(params) == ["2.weight", "2.bias"]
    expected = create(spec)(by_hand(loss(regression(1)), loss(regression(2))), params)
    assert_same(create(spec)(problem, params), expected)
    assert module.get_parameter("0.weight").grad is None
    assert torch.equal(module.get_parameter("0.weight"), weight)


@pytest.mark.parametrize("spec", SPECS)
def test_tied_weights_move_together(spec: str) -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    module[2].weight = module[0].weight
    seeded(module)

    def targets(batch: Batch) -> Batch:
        return batch[0], batch[0].cos()

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            tied = p["0.weight"]
            return functional.mse_loss(torch.tanh(batch[0] @ tied.T) @ tied.T, batch[1])

        return value

    support, query = targets(regression(1)), targets(regression(2))
    params = trainable(module)
    assert list(params) == ["0.weight"]
    expected = create(spec)(by_hand(loss(support), loss(query)), params)
    problem = problem_of(module, functional.mse_loss, support, query)
    assert_same(create(spec)(problem, params), expected)
    assert module[2].weight is module[0].weight


def test_running_statistics_are_refused() -> None:
    for layer in (
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm3d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm1d(3, track_running_stats=True),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ):
        module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), layer))
        with pytest.raises(OptionError, match=rf"{type(layer).__name__} '1\.1'"):
            problem_of(module)
        with pytest.raises(OptionError, match=type(layer).__name__):
            problem_of(layer)


class Plain(nn.Module):
    """A module of one argument."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self.weight)


class WithDefaults(Plain):
    """A module that could take more arguments."""

    def forward(self, inputs: Tensor, scale: float = 1.0, *, shift: Tensor | None = None) -> Tensor:
        found = scale * super().forward(inputs)
        return found if shift is None else found + shift


@pytest.mark.parametrize("kind", [Plain, WithDefaults])
def test_forward_is_given_only_the_inputs(kind: type[Plain]) -> None:
    module = seeded(kind())

    def loss(batch: Batch) -> Loss:
        return lambda p: functional.mse_loss(torch.tanh(batch[0] @ p["weight"]), batch[1])

    expected = create("maml")(by_hand(loss(regression(1)), loss(regression(2))), trainable(module))
    assert_same(create("maml")(problem_of(module), trainable(module)), expected)


def test_inputs_and_targets_may_have_many_dimensions() -> None:
    module, draws = seeded(nn.Linear(3, 2)), Draws()
    support, query = ((draws.normal(2, 4, 5, 3), draws.normal(2, 4, 5, 2)) for _ in range(2))

    def flat(batch: Batch) -> Batch:
        return batch[0].reshape(40, 3), batch[1].reshape(40, 2)

    result = create("maml")(
        problem_of(module, functional.mse_loss, support, query), trainable(module)
    )
    expected = create("maml")(
        problem_of(module, functional.mse_loss, flat(support), flat(query)), trainable(module)
    )
    assert_same(result, expected)


def test_targets_may_be_a_map_of_labels() -> None:
    module, draws = seeded(nn.Conv2d(1, 3, 3, padding=1)), Draws()
    labels = torch.arange(4 * 5 * 5).reshape(4, 5, 5) % 3
    support, query = ((draws.normal(4, 1, 5, 5), labels) for _ in range(2))

    def flattened(outputs: Tensor, targets: Tensor) -> Tensor:
        scores = outputs.permute(0, 2, 3, 1).reshape(-1, 3).log_softmax(1)
        return -scores[torch.arange(100), targets.reshape(-1)].mean()

    results = [
        create("binom(order=2)")(problem_of(module, each, support, query), trainable(module))
        for each in (nn.CrossEntropyLoss(), flattened)
    ]
    assert_same(*results)


def test_loss_must_be_a_scalar() -> None:
    problem = problem_of(mlp(), nn.MSELoss(reduction="none"))
    with pytest.raises(OptionError, match="scalar"):
        create("maml")(problem, trainable(mlp()))
