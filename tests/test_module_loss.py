"""Problems of an `nn.Module` are those that one would write by hand, and leave the module alone."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from estimators import (
    BilevelProblem,
    MetaGradient,
    OptionError,
    Params,
    create,
    module_problem,
    trainable,
)
from estimators.module_loss import Batch, Criterion
from tests.oracle import Loss, flatten, relative_error

SPECS = [
    "maml",
    "adjoint",
    "adjoint(engine='func')",
    "fomaml",
    "truncated(order=2)",
    "binom(order=2)",
    "binom(order=2, batching='vmap')",
    "binom-calibrated(order=2)",
    "anil",
    "imaml(lam=2.0)",
    "reptile",
]
STEPS, STEP_SIZE = 3, 0.1
EXACT = 1e-12


class Draws:
    """Repeatable normal draws."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Returns the module in float64, its parameters drawn anew."""
    draws = Draws(seed)
    module = module.double()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.5 * draws.normal(*value.shape))
    return module


def mlp() -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)))


def conv_net(norm: nn.Module | None = None) -> nn.Module:
    return seeded(
        nn.Sequential(
            nn.Conv2d(1, 3, 3),
            norm or nn.BatchNorm2d(3, track_running_stats=False),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(27, 2),
        )
    )


def regression(seed: int) -> Batch:
    draws = Draws(seed)
    return draws.normal(6, 3), draws.normal(6, 2)


def images(seed: int) -> Batch:
    return Draws(seed).normal(6, 1, 5, 5), torch.arange(6) % 2


def problem_of(
    module: nn.Module,
    criterion: Criterion = functional.mse_loss,
    support: Batch | None = None,
    query: Batch | None = None,
) -> BilevelProblem:
    return module_problem(
        module,
        criterion,
        support or regression(1),
        query or regression(2),
        step_size=STEP_SIZE,
        steps=STEPS,
    )


def image_problem(module: nn.Module) -> BilevelProblem:
    return problem_of(module, functional.cross_entropy, images(1), images(2))


def by_hand(inner_loss: Loss, outer_loss: Loss) -> BilevelProblem:
    return BilevelProblem(inner_loss, outer_loss, STEP_SIZE, STEPS)


def assert_same(one: MetaGradient, other: MetaGradient) -> None:
    assert list(one.gradient) == list(other.gradient)
    assert relative_error(one.gradient, flatten(other.gradient)) < EXACT
    assert relative_error(one.adapted, flatten(other.adapted)) < EXACT
    assert float(one.outer_loss) == pytest.approx(float(other.outer_loss), rel=EXACT)
    assert (one.hvps, one.serial_depth) == (other.hvps, other.serial_depth)


@pytest.mark.parametrize("spec", SPECS)
def test_problem_of_a_network_is_the_one_written_by_hand(spec: str) -> None:
    module = mlp()

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            hidden = torch.tanh(batch[0] @ p["0.weight"].T + p["0.bias"])
            return functional.mse_loss(hidden @ p["2.weight"].T + p["2.bias"], batch[1])

        return value

    expected = create(spec)(by_hand(loss(regression(1)), loss(regression(2))), trainable(module))
    assert_same(create(spec)(problem_of(module), trainable(module)), expected)


@pytest.mark.parametrize("spec", SPECS)
def test_problem_of_a_convolutional_network_is_the_one_written_by_hand(spec: str) -> None:
    module = conv_net()

    def loss(batch: Batch) -> Loss:
        def value(p: Params) -> Tensor:
            return functional.cross_entropy(functional_call(module, p, (batch[0],)), batch[1])

        return value

    expected = create(spec)(by_hand(loss(images(1)), loss(images(2))), trainable(module))
    assert_same(create(spec)(image_problem(module), trainable(module)), expected)


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


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm3d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, momentum=None),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm1d(3, track_running_stats=True),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ],
    ids=repr,
)
def test_running_statistics_are_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), layer))
    with pytest.raises(OptionError) as caught:
        problem_of(module)
    for words in (type(layer).__name__, "'1.1'", "track_running_stats=False", ".eval()"):
        assert words in str(caught.value)


def test_the_module_itself_may_be_what_is_refused() -> None:
    with pytest.raises(OptionError, match="BatchNorm1d"):
        problem_of(nn.BatchNorm1d(3))


def normalised(norm: nn.Module, p: Params, x: Tensor) -> Tensor:
    """Normalises by the formula, with the scale and shift of the second layer."""
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or variance is None:
        axes = {nn.GroupNorm: (1, 2, 3), nn.InstanceNorm2d: (2, 3)}.get(type(norm), (0, 2, 3))
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    else:
        mean, variance = mean.reshape(1, 3, 1, 1), variance.reshape(1, 3, 1, 1)
    scale, shift = p["1.weight"].reshape(1, 3, 1, 1), p["1.bias"].reshape(1, 3, 1, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def settled(norm: nn.Module) -> nn.Module:
    """Returns a normalisation in evaluation mode whose running statistics are not the default."""
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


def test_running_statistics_are_accepted_where_the_whole_module_is_in_evaluation_mode() -> None:
    module = conv_net(nn.BatchNorm2d(3)).eval()
    result = create("maml")(image_problem(module), trainable(module))
    assert flatten(result.gradient).norm() > 0


def test_tracking_can_be_switched_off_later() -> None:
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


def with_dropout() -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)))


def under_seed(seed: int, spec: str, module: nn.Module) -> Tensor:
    problem, params = problem_of(module), trainable(module)
    torch.manual_seed(seed)
    return flatten(create(spec)(problem, params).gradient)


def test_dropout_is_refused_while_it_draws() -> None:
    with pytest.raises(OptionError, match=r"Dropout '2' draws anew at every call.*\.eval\(\)"):
        problem_of(with_dropout())


def test_dropout_does_nothing_in_evaluation_mode() -> None:
    module = with_dropout().eval()
    first, other = (under_seed(seed, "maml", module) for seed in (0, 1))
    assert torch.equal(first, other)


PRODUCTS = {"mm", "addmm", "bmm", "convolution", "convolution_backward"}


class ProductTypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees in which types matrix products and convolutions are computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            tensors = (arg for arg in tree_iter(args) if isinstance(arg, Tensor))
            self.seen |= {tensor.dtype for tensor in tensors}
        return func(*args, **(kwargs or {}))


MIXED = ["maml", "maml(checkpoint='sqrt')", *SPECS[1:]]


def in_precision(batch: Batch, dtype: torch.dtype) -> Batch:
    inputs, targets = batch
    return inputs.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets


def net_in_precision(net: str, dtype: torch.dtype) -> tuple[BilevelProblem, Params]:
    module = {"mlp": mlp, "conv": conv_net}[net]().to(dtype)
    batch = {"mlp": regression, "conv": images}[net]
    criterion: Criterion = functional.mse_loss if net == "mlp" else functional.cross_entropy
    support, query = (in_precision(batch(seed), dtype) for seed in (1, 2))
    return problem_of(module, criterion, support, query), trainable(module)


def tolerance(net: str) -> float:
    return {"mlp": 0.05, "conv": 0.1}[net]


@pytest.mark.parametrize("spec", MIXED)
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_autocast_computes_products_in_bfloat16_and_the_rest_in_float32(
    spec: str, net: str
) -> None:
    problem, params = net_in_precision(net, torch.float32)
    expected = create(spec)(problem, params)
    with torch.autocast("cpu", torch.bfloat16), ProductTypes() as products:
        result = create(spec)(problem, params)
    # On the CPU autocast knows conv2d, but not the convolution that vmap makes of it.
    missed = {torch.float32} if "vmap" in spec and net == "conv" else set()
    assert products.seen == {torch.bfloat16} | missed
    for name, value in params.items():
        assert result.gradient[name].dtype == result.adapted[name].dtype == torch.float32
        assert value.dtype == torch.float32
    error = relative_error(result.gradient, flatten(expected.gradient))
    assert 0 < error < tolerance(net)
    assert result.outer_loss.dtype == torch.float32
    assert float(result.outer_loss) == pytest.approx(float(expected.outer_loss), rel=0.05)


@pytest.mark.parametrize("spec", ["maml", "binom(order=2)"])
def test_autocast_ends_with_its_block(spec: str) -> None:
    problem, params = net_in_precision("mlp", torch.float32)
    expected = create(spec)(problem, params)
    with torch.autocast("cpu", torch.bfloat16):
        create(spec)(problem, params)
    with ProductTypes() as products:
        result = create(spec)(problem, params)
    assert products.seen == {torch.float32}
    assert torch.equal(flatten(result.gradient), flatten(expected.gradient))


@pytest.mark.parametrize("spec", MIXED)
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_parameters_may_be_bfloat16_throughout(spec: str, net: str) -> None:
    expected = create(spec)(*net_in_precision(net, torch.float32))
    problem, params = net_in_precision(net, torch.bfloat16)
    with ProductTypes() as products:
        result = create(spec)(problem, params)
    assert products.seen == {torch.bfloat16}
    tensors = [*result.gradient.values(), *result.adapted.values(), result.outer_loss]
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    found = {name: value.float() for name, value in result.gradient.items()}
    assert relative_error(found, flatten(expected.gradient)) < tolerance(net)


class Plain(nn.Module):
    """Takes one argument and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self.weight)


class WithDefaults(Plain):
    """Could take more."""

    def forward(self, inputs: Tensor, scale: float = 1.0, *, shift: Tensor | None = None) -> Tensor:
        found = scale * super().forward(inputs)
        return found if shift is None else found + shift


@pytest.mark.parametrize("kind", [Plain, WithDefaults])
def test_forward_is_given_the_inputs_alone(kind: type[Plain]) -> None:
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
