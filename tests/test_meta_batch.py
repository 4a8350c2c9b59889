"""A meta-batch is the mean of its problems, and `meta_backward` is torch's own backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from estimators import (
    BilevelProblem,
    Estimator,
    MetaBatch,
    ModuleLoss,
    OptionError,
    Params,
    available,
    create,
    estimate_batch,
    meta_backward,
    module_problem,
    trainable,
)
from estimators.binom_calibrated import BinomCalibrated
from estimators.meta_batch import Batching
from estimators.module_loss import Batch, Criterion
from harness.probes.memory import peak_memory
from harness.tasks import TASKS
from tests.oracle import flatten, relative_error

OPTIONS = {
    "binom": "(order=2)",
    "binom-calibrated": "(order=2)",
    "binom-released": "(order=2)",
    "hybrid": "(order=1, window=2)",
    "imaml": "(lam=2.0)",
    "neumann": "(terms=2, lam=2.0)",
    "truncated": "(order=2)",
}
VARIANTS = [
    "adjoint(engine='finite-difference')",
    "adjoint(engine='func')",
    "binom(order=1)",
    "binom(order=2, batching='vmap')",
    "binom(order=2, batching='chunk(2)')",
    "binom-calibrated(order=2, engine='func')",
    "maml(checkpoint='sqrt')",
    "mixed(weights='geometric')",
]
SPECS = [name + OPTIONS.get(name, "") for name in available()] + VARIANTS
SEPARABLE = [spec for spec in SPECS if create(spec).separable]
TOGETHER = [spec for spec in SPECS if spec not in SEPARABLE]
BATCHINGS: tuple[Batching, ...] = get_args(Batching)
COUNT, STEPS = 3, 3
EXACT = 1e-10


@dataclass(frozen=True, eq=False)
class Net:
    """A module, its loss, and data by number."""

    module: nn.Module
    criterion: Criterion
    inputs: tuple[int, ...]
    classes: bool = False

    def batch(self, seed: int, points: int = 6) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(points, *self.inputs, generator=generator, dtype=torch.float64)
        if self.classes:
            return inputs, torch.randint(2, (points,), generator=generator)
        return inputs, torch.randn(points, 2, generator=generator, dtype=torch.float64)

    def problem(
        self,
        task: int,
        *,
        module: nn.Module | None = None,
        criterion: Criterion | None = None,
        support: Batch | None = None,
        query: Batch | None = None,
        step_size: float | Params = 0.1,
        steps: int = STEPS,
        momentum: float = 0.0,
    ) -> BilevelProblem:
        return module_problem(
            module or self.module,
            criterion or self.criterion,
            support or self.batch(2 * task),
            query or self.batch(2 * task + 1),
            step_size=step_size,
            steps=steps,
            momentum=momentum,
        )

    @property
    def params(self) -> Params:
        return trainable(self.module)


def seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = module.double()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return module


def mlp() -> Net:
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    return Net(seeded(module), functional.mse_loss, (3,))


def conv_net() -> Net:
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(27, 2),
    )
    return Net(seeded(module), functional.cross_entropy, (1, 5, 5), classes=True)


NETS: dict[str, Callable[[], Net]] = {"mlp": mlp, "conv": conv_net}
every_net = pytest.mark.parametrize("net", [build() for build in NETS.values()], ids=list(NETS))
every_batching = pytest.mark.parametrize("batching", BATCHINGS)


def assert_close(one: Params, other: Params, tolerance: float = EXACT) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.shape == other[name].shape
    assert relative_error(one, flatten(other)) < tolerance


def assert_mean(result: MetaBatch, estimator: Estimator, problems: list[BilevelProblem]) -> None:
    """Checks a result against the mean that is taken here."""
    params = trainable(problems[0].inner_loss.module)  # type: ignore[attr-defined]
    singles = [estimator(problem, params) for problem in problems]
    for name, value in result.gradient.items():
        mean = torch.stack([single.gradient[name] for single in singles]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=1e-12)
        assert not value.requires_grad
    outer_loss = fmean(float(single.outer_loss) for single in singles)
    assert float(result.outer_loss) == pytest.approx(outer_loss, rel=EXACT)
    assert result.outer_loss.shape == ()


def test_the_specs_are_of_both_kinds() -> None:
    assert {"maml", "adjoint", "binom(order=2)", "binom-calibrated(order=2)"} <= set(SEPARABLE)
    assert {"imaml(lam=2.0)", "hf-maml", "adjoint(engine='finite-difference')"} <= set(TOGETHER)


@every_net
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_loop_is_the_mean_of_estimates(spec: str, net: Net) -> None:
    estimator, problems = create(spec), [net.problem(task) for task in range(COUNT)]
    assert_mean(estimate_batch(estimator, problems, net.params), estimator, problems)


@every_net
@pytest.mark.parametrize("spec", SEPARABLE)
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_vmap_is_the_mean_of_estimates(spec: str, net: Net) -> None:
    estimator, problems = create(spec), [net.problem(task) for task in range(COUNT)]
    result = estimate_batch(estimator, problems, net.params, batching="vmap")
    assert_mean(result, estimator, problems)
    assert_close(result.gradient, estimate_batch(estimator, problems, net.params).gradient)


@every_net
@pytest.mark.parametrize("spec", ["maml", "adjoint", "fomaml", "truncated(order=2)"])
def test_vmap_is_the_mean_where_there_is_momentum(spec: str, net: Net) -> None:
    estimator = create(spec)
    problems = [net.problem(task, momentum=0.7) for task in range(COUNT)]
    assert_mean(
        estimate_batch(estimator, problems, net.params, batching="vmap"), estimator, problems
    )


@every_batching
def test_a_meta_batch_of_one_is_its_problem(batching: Batching) -> None:
    net, maml = mlp(), create("maml")
    problem = net.problem(0)
    result = estimate_batch(maml, [problem], net.params, batching=batching)
    assert_close(result.gradient, maml(problem, net.params).gradient)
    assert result.step_size_gradient is None


@every_batching
def test_depth_zero_is_the_mean_outer_gradient(batching: Batching) -> None:
    net, maml = mlp(), create("maml")
    problems = [net.problem(task, steps=0) for task in range(COUNT)]
    assert_mean(estimate_batch(maml, problems, net.params, batching=batching), maml, problems)


@pytest.mark.parametrize("spec", TOGETHER)
def test_vmap_is_refused_where_problems_would_depend_on_each_other(spec: str) -> None:
    net = mlp()
    problems = [net.problem(task) for task in range(COUNT)]
    with pytest.raises(OptionError, match=r'cannot take .* use batching="loop"'):
        estimate_batch(create(spec), problems, net.params, batching="vmap")


def relabelled(batch: Batch) -> Batch:
    return batch[0], batch[1][:, :1]


def other_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets[:, :1]).abs().sqrt().sum()


NET = mlp()
ODD = {
    "steps": NET.problem(1, steps=STEPS + 1),
    "step size": NET.problem(1, step_size=0.2),
    "momentum": NET.problem(1, momentum=0.5),
    "module": NET.problem(1, module=mlp().module),
    "criterion": NET.problem(1, criterion=other_loss),
    "support inputs": NET.problem(1, support=NET.batch(2, points=5)),
    "query inputs": NET.problem(1, query=NET.batch(3, points=7)),
    "support targets": NET.problem(1, criterion=other_loss, support=relabelled(NET.batch(2))),
    "inner loss not of a module": replace(
        NET.problem(1), inner_loss=lambda p: (p["0.weight"] ** 2).sum()
    ),
    "outer loss not of a module": replace(
        NET.problem(1), outer_loss=lambda p: (p["0.weight"] ** 2).sum()
    ),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_what_differs_in_more_than_data_is_refused_by_vmap(
    odd: BilevelProblem, first: bool
) -> None:
    usual = [NET.problem(0), NET.problem(2)]
    problems = [odd, *usual] if first else [*usual, odd]
    with pytest.raises(OptionError, match='"vmap"'):
        estimate_batch(create("maml"), problems, NET.params, batching="vmap")


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
def test_what_differs_in_more_than_data_is_fine_for_a_loop(odd: BilevelProblem) -> None:
    problems = [NET.problem(0), odd, NET.problem(2)]
    maml = create("maml")
    assert_mean(estimate_batch(maml, problems, NET.params), maml, problems)


def test_targets_of_another_shape_are_refused_by_vmap() -> None:
    both = [NET.problem(0, criterion=other_loss), ODD["support targets"]]
    with pytest.raises(OptionError, match="data of one shape"):
        estimate_batch(create("maml"), both, NET.params, batching="vmap")


def test_a_meta_batch_without_problems_is_refused() -> None:
    with pytest.raises(OptionError, match="at least one problem"):
        estimate_batch(create("maml"), [], NET.params)


def test_an_unknown_batching_is_refused() -> None:
    with pytest.raises(OptionError, match="'pmap' is neither"):
        estimate_batch(create("maml"), [NET.problem(0)], NET.params, batching="pmap")  # type: ignore[arg-type]


@every_batching
@pytest.mark.parametrize("spec", ["maml", "binom(order=2)", "reptile"])
def test_parameters_are_left_as_they_are(spec: str, batching: Batching) -> None:
    net = mlp()
    params = dict(net.module.named_parameters())
    before = {name: value.detach().clone() for name, value in params.items()}
    problems = [net.problem(task) for task in range(COUNT)]
    with torch.no_grad():
        result = estimate_batch(create(spec), problems, params, batching=batching)
    for name, value in params.items():
        assert torch.equal(value, before[name])
        assert value.grad is None
        assert value.requires_grad
        assert not result.gradient[name].requires_grad


# meta_backward and torch's own backward


def unrolled(problem: BilevelProblem, theta: dict[str, nn.Parameter], constant: int = 0) -> Tensor:
    """Returns the outer loss after K steps; torch can differentiate through all but the first."""
    losses = (problem.inner_loss, problem.outer_loss)
    inner, outer = (loss for loss in losses if isinstance(loss, ModuleLoss))
    phi: Params = dict(theta)
    speed = {name: torch.zeros_like(value) for name, value in phi.items()}
    for k in range(problem.steps):
        inputs, targets = inner.batch
        loss = inner.criterion(functional_call(inner.module, phi, (inputs,)), targets)
        slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
        for name, slope in zip(list(phi), slopes, strict=True):
            sizes = problem.step_size
            size = sizes[name] if isinstance(sizes, dict) else sizes
            speed[name] = problem.momentum * speed[name] + slope
            phi[name] = phi[name] - size * speed[name]
        if k < constant:
            phi = {
                name: theta[name] + (value - theta[name]).detach() for name, value in phi.items()
            }
            speed = {name: value.detach() for name, value in speed.items()}
    inputs, targets = outer.batch
    return outer.criterion(functional_call(outer.module, phi, (inputs,)), targets)


def backward(problems: Sequence[BilevelProblem], net: Net, constant: int = 0) -> Tensor:
    """Does by hand what `meta_backward` is to do."""
    theta = {name: value for name, value in net.module.named_parameters() if value.requires_grad}
    losses = [unrolled(problem, theta, constant) for problem in problems]
    loss = torch.stack(losses).mean()
    torch.autograd.backward(loss)
    return loss.detach()


def grads(net: Net) -> dict[str, Tensor | None]:
    return {
        name: None if value.grad is None else value.grad.clone()
        for name, value in net.module.named_parameters()
    }


def assert_same_grads(net: Net, other: Net) -> None:
    for (name, value), expected in zip(grads(net).items(), grads(other).values(), strict=True):
        assert (value is None) == (expected is None), name
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@every_batching
def test_meta_backward_is_backward(name: str, momentum: float, batching: Batching) -> None:
    net, other = NETS[name](), NETS[name]()

    def problems(of: Net) -> list[BilevelProblem]:
        return [of.problem(task, momentum=momentum) for task in range(COUNT)]

    for _ in range(2):  # the second time adds to what the first time left
        result = meta_backward(create("maml"), problems(net), net.module, batching=batching)
        expected = backward(problems(other), other)
        assert_same_grads(net, other)
        assert float(result) == pytest.approx(float(expected), rel=EXACT)
        assert result.shape == ()
        assert not result.requires_grad
    for each in (net, other):
        each.module.zero_grad()
    meta_backward(create("adjoint"), problems(net), net.module, batching=batching)
    backward(problems(other), other)
    assert_same_grads(net, other)


@every_batching
def test_meta_backward_adds_in_place_to_what_is_there(batching: Batching) -> None:
    net = mlp()
    problems = [net.problem(task) for task in range(COUNT)]
    for value in net.module.parameters():
        value.grad = torch.ones_like(value)
    own = [value.grad for value in net.module.parameters()]
    meta_backward(create("fomaml"), problems, net.module, batching=batching)
    expected = estimate_batch(create("fomaml"), problems, net.params).gradient
    for (name, value), grad in zip(net.module.named_parameters(), own, strict=True):
        assert value.grad is grad
        torch.testing.assert_close(value.grad, 1 + expected[name])


@every_batching
def test_grads_are_memory_of_their_own(batching: Batching) -> None:
    net = mlp()
    problems = [net.problem(0)]
    meta_backward(create("fomaml"), problems, net.module, batching=batching)
    before = grads(net)
    for value in net.module.parameters():
        assert value.grad is not None
        value.grad.zero_()
    meta_backward(create("fomaml"), problems, net.module, batching=batching)
    torch.testing.assert_close(grads(net), before, rtol=0, atol=0)


@every_batching
def test_frozen_parameters_get_no_grad(batching: Batching) -> None:
    net, other = mlp(), mlp()
    for each in (net, other):
        each.module.get_parameter("0.weight").requires_grad_(False)
    meta_backward(
        create("maml"), [net.problem(task) for task in range(COUNT)], net.module, batching=batching
    )
    backward([other.problem(task) for task in range(COUNT)], other)
    assert net.module.get_parameter("0.weight").grad is None
    assert_same_grads(net, other)


def tied() -> Net:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2))
    module[2].weight = module[0].weight
    return Net(seeded(module), functional.mse_loss, (3,))


@every_batching
def test_tied_weights_get_the_grad_of_both_places(batching: Batching) -> None:
    net, other = tied(), tied()
    meta_backward(
        create("maml"), [net.problem(task) for task in range(COUNT)], net.module, batching=batching
    )
    backward([other.problem(task) for task in range(COUNT)], other)
    assert_same_grads(net, other)


# Step sizes by parameter

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "alike": {"0.weight": (8, 3), "0.bias": (8,), "2.weight": (2, 8), "2.bias": (2,)},
    "one for each": {"0.weight": (), "0.bias": (), "2.weight": (), "2.bias": ()},
    "broadcast": {"0.weight": (3,), "0.bias": (1,), "2.weight": (2, 1), "2.bias": ()},
}


def step_sizes(shapes: dict[str, tuple[int, ...]]) -> Params:
    generator = torch.Generator().manual_seed(7)
    return {
        name: (0.05 + 0.1 * torch.rand(shape, generator=generator).double()).requires_grad_()
        for name, shape in shapes.items()
    }


META_SGD = ["maml", "maml(checkpoint='sqrt')", "adjoint"]


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [("maml", "alike"), ("maml", "one for each"), *((spec, "broadcast") for spec in META_SGD)],
)
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@every_batching
def test_step_sizes_get_their_grad(
    shapes: str, momentum: float, spec: str, batching: Batching
) -> None:
    net, other = mlp(), mlp()
    sizes, others = step_sizes(SHAPES[shapes]), step_sizes(SHAPES[shapes])

    def problems(of: Net, its: Params) -> list[BilevelProblem]:
        return [of.problem(task, step_size=its, momentum=momentum) for task in range(COUNT)]

    for _ in range(2):
        meta_backward(create(spec), problems(net, sizes), net.module, batching=batching)
        backward(problems(other, others), other)
        assert_same_grads(net, other)
        for name, size in sizes.items():
            grad = size.grad
            assert grad is not None
            assert grad.shape == size.shape
            torch.testing.assert_close(grad, others[name].grad, rtol=1e-9, atol=1e-12)


@every_batching
def test_mean_of_the_step_sizes_gradients(batching: Batching) -> None:
    net, sizes, maml = mlp(), step_sizes(SHAPES["broadcast"]), create("maml")
    problems = [net.problem(task, step_size=sizes) for task in range(COUNT)]
    found = estimate_batch(maml, problems, net.params, batching=batching).step_size_gradient
    assert found is not None
    singles = [maml(problem, net.params).step_size_gradient or {} for problem in problems]
    for name, value in found.items():
        mean = torch.stack([single[name] for single in singles]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=1e-12)


@every_batching
def test_truncated_gives_step_sizes_the_grad_of_the_last_steps(batching: Batching) -> None:
    net, other = mlp(), mlp()
    sizes, others = step_sizes(SHAPES["alike"]), step_sizes(SHAPES["alike"])
    problems = [net.problem(task, step_size=sizes) for task in range(COUNT)]
    meta_backward(create("truncated(order=2)"), problems, net.module, batching=batching)
    backward([other.problem(t, step_size=others) for t in range(COUNT)], other, STEPS - 2)
    assert_same_grads(net, other)
    for name, size in sizes.items():
        torch.testing.assert_close(size.grad, others[name].grad, rtol=1e-9, atol=1e-12)


@every_batching
def test_step_sizes_that_need_no_gradient_get_none(batching: Batching) -> None:
    net, sizes = mlp(), step_sizes(SHAPES["broadcast"])
    sizes["0.bias"].requires_grad_(False)
    problems = [net.problem(task, step_size=sizes) for task in range(COUNT)]
    meta_backward(create("maml"), problems, net.module, batching=batching)
    assert sizes["0.bias"].grad is None
    assert all(size.grad is not None for name, size in sizes.items() if name != "0.bias")


@pytest.mark.parametrize("spec", ["binom(order=2)", "reptile", "imaml(lam=2.0)"])
def test_estimators_for_plain_descent_refuse_step_sizes(spec: str) -> None:
    net, sizes = mlp(), step_sizes(SHAPES["alike"])
    with pytest.raises(OptionError, match="step size for each parameter"):
        meta_backward(create(spec), [net.problem(0, step_size=sizes)], net.module)
    assert all(value.grad is None for value in net.module.parameters())


@every_batching
def test_problems_must_share_their_step_sizes(batching: Batching) -> None:
    net = mlp()
    one, other = (net.problem(task, step_size=step_sizes(SHAPES["alike"])) for task in range(2))
    for problems in ([one, other], [one, net.problem(1)], [net.problem(1), one]):
        with pytest.raises(OptionError, match="share their step sizes"):
            meta_backward(create("maml"), problems, net.module, batching=batching)
    assert all(value.grad is None for value in net.module.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_step_sizes_may_be_computed_from_what_is_learnt() -> None:
    net, other = mlp(), mlp()

    def learnt(of: Net, logarithm: Tensor) -> list[BilevelProblem]:
        sizes = {name: 0.1 * logarithm.exp() for name in of.params}
        return [of.problem(task, step_size=sizes) for task in range(COUNT)]

    mine, its = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    meta_backward(create("maml"), learnt(net, mine), net.module)
    backward(learnt(other, its), other)
    torch.testing.assert_close(mine.grad, its.grad, rtol=1e-9, atol=1e-12)


def test_vmap_takes_the_same_step_sizes_in_two_dictionaries() -> None:
    net, sizes, maml = mlp(), step_sizes(SHAPES["alike"]), create("maml")
    problems = [net.problem(task, step_size=dict(sizes)) for task in range(COUNT)]
    assert_mean(estimate_batch(maml, problems, net.params, batching="vmap"), maml, problems)


def test_hooks_are_called_as_by_backward() -> None:
    net = mlp()
    seen: list[Tensor] = []
    weight = net.module.get_parameter("0.weight")
    weight.register_post_accumulate_grad_hook(seen.append)  # type: ignore[no-untyped-call]
    meta_backward(create("maml"), [net.problem(0)], net.module)
    assert len(seen) == 1


# Training, memory, calibration, mixed precision


@pytest.mark.parametrize("spec", ["maml", "binom(order=2)", "binom-calibrated(order=2)"])
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_training_lowers_the_outer_loss(spec: str) -> None:
    family = TASKS.create("sinusoid")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    optimiser, estimator = torch.optim.Adam(module.parameters(), lr=0.01), create(spec)

    def problems(first: int, count: int) -> list[BilevelProblem]:
        tasks = [family.sample(seed) for seed in range(first, first + count)]
        return [
            module_problem(module, family.loss, t.support, t.query, step_size=0.02, steps=3)
            for t in tasks
        ]

    held_out = problems(10_000, 25)

    def score() -> float:
        result = estimate_batch(create("fomaml"), held_out, trainable(module), batching="vmap")
        return float(result.outer_loss)

    before = score()
    for step in range(40):
        optimiser.zero_grad()
        meta_backward(estimator, problems(6 * step, 6), module, batching="vmap")
        optimiser.step()
    assert score() < 0.9 * before


@pytest.mark.parametrize("spec", ["maml", "binom(order=2)", "adjoint"])
def test_memory_of_a_loop_is_that_of_one_problem(spec: str) -> None:
    module = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
    net = Net(seeded(module), functional.mse_loss, (3,))
    data = [(net.batch(2 * task, 200), net.batch(2 * task + 1, 200)) for task in range(8)]
    problems = [net.problem(0, support=support, query=query) for support, query in data]

    def peak(count: int, batching: Batching) -> int:
        def work() -> MetaBatch:
            return estimate_batch(create(spec), problems[:count], net.params, batching=batching)

        work()
        return peak_memory(work, "cpu")

    one, two, all_of_them = (peak(count, "loop") for count in (1, 2, 8))
    assert all_of_them == two
    assert two < 1.05 * one
    assert peak(8, "vmap") > 4 * one


@dataclass(frozen=True)
class Unready(Estimator):
    """Remembers what it was calibrated on."""

    seen: list[tuple[list[BilevelProblem], Params]]

    @property
    def due(self) -> bool:
        return len(self.seen) < 1

    def calibrate(self, problems: Sequence[BilevelProblem], params: Params) -> None:
        self.seen.append((list(problems), params))

    def estimate(self, problem: BilevelProblem, params: Params):  # type: ignore[no-untyped-def]
        assert self.seen, "estimates come after calibration"
        return create("fomaml")(problem, params)


def test_an_estimator_that_is_due_is_calibrated_first_on_all_problems() -> None:
    net, unready = mlp(), Unready([])
    problems = [net.problem(task) for task in range(COUNT)]
    for _ in range(2):
        estimate_batch(unready, problems, dict(net.module.named_parameters()))
    ((seen, params),) = unready.seen
    assert seen == problems
    assert_close(params, net.params)
    assert not any(value.requires_grad for value in params.values())


def calibrated(order: int = 2, refit_every: int = 400) -> BinomCalibrated:
    estimator = create("binom-calibrated", order=order, refit_every=refit_every)
    assert isinstance(estimator, BinomCalibrated)
    return estimator


@every_batching
def test_first_use_calibrates_and_later_uses_do_not(batching: Batching) -> None:
    net, estimator, by_hand = mlp(), calibrated(), calibrated()
    problems = [net.problem(task, step_size=0.4) for task in range(COUNT)]
    others = [net.problem(task, step_size=0.4) for task in range(COUNT, 2 * COUNT)]
    by_hand.calibrate(problems, net.params)
    meta_backward(estimator, problems, net.module, batching=batching)
    assert estimator.calibration == by_hand.calibration is not None
    assert not estimator.due
    for (name, grad), value in zip(
        grads(net).items(),
        estimate_batch(by_hand, problems, net.params).gradient.values(),
        strict=True,
    ):
        torch.testing.assert_close(grad, value, rtol=1e-9, atol=1e-12, msg=name)
    estimate_batch(estimator, others, net.params, batching=batching)
    assert estimator.calibration == by_hand.calibration


@every_batching
@pytest.mark.filterwarnings("ignore:binom-calibrated")
def test_it_is_calibrated_again_when_it_is_due_again(batching: Batching) -> None:
    net, estimator, by_hand = mlp(), calibrated(refit_every=1), calibrated()
    problems = [net.problem(task, step_size=0.4) for task in range(COUNT)]
    others = [net.problem(task, step_size=0.4) for task in range(COUNT, 2 * COUNT)]
    estimate_batch(estimator, problems, net.params, batching=batching)
    first = estimator.calibration
    estimate_batch(estimator, others, net.params, batching=batching)
    by_hand.calibrate(others, net.params)
    assert first != estimator.calibration == by_hand.calibration


def test_calibration_works_where_gradients_are_switched_off() -> None:
    net, estimator, by_hand = mlp(), calibrated(), calibrated()
    problems = [net.problem(task, step_size=0.4) for task in range(COUNT)]
    by_hand.calibrate(problems, net.params)
    with torch.no_grad():
        estimate_batch(estimator, problems, net.params)
    assert estimator.calibration == by_hand.calibration


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("spec", ["maml", "binom(order=2)"])
@every_batching
def test_autocast_around_meta_backward(name: str, spec: str, batching: Batching) -> None:
    net = NETS[name]()
    net.module.float()

    def single(batch: Batch) -> Batch:
        inputs, targets = batch
        return inputs.float(), targets.float() if targets.is_floating_point() else targets

    problems = [
        net.problem(t, support=single(net.batch(2 * t)), query=single(net.batch(2 * t + 1)))
        for t in range(COUNT)
    ]
    expected = estimate_batch(create(spec), problems, net.params).gradient
    with torch.autocast("cpu", torch.bfloat16):
        loss = meta_backward(create(spec), problems, net.module, batching=batching)
    found = {n: value.grad for n, value in net.module.named_parameters() if value.grad is not None}
    assert {value.dtype for value in found.values()} == {torch.float32} == {loss.dtype}
    assert 0 < relative_error(found, flatten(expected)) < 0.2
