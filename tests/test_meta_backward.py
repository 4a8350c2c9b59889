"""`meta_backward` is torch's own backward, for step sizes by parameter too."""

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from estimators import (
    BilevelProblem,
    ModuleLoss,
    OptionError,
    Params,
    create,
    estimate_batch,
    meta_backward,
)
from estimators.base.meta_batch import Batching
from tests.support.modules import (
    EXACT,
    NETS,
    STEPS,
    Net,
    every_batching,
    mlp_net,
    regression,
    seeded,
)


def unrolled(problem: BilevelProblem, theta: dict[str, nn.Parameter], constant: int = 0) -> Tensor:
    """Return the outer loss after K steps; torch can differentiate through all but the first."""
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
    """Do by hand the work of `meta_backward`."""
    theta = {name: value for name, value in net.module.named_parameters() if value.requires_grad}
    losses = [unrolled(problem, theta, constant) for problem in problems]
    loss = torch.stack(losses).mean()
    torch.autograd.backward(loss)
    return loss.detach()


def assert_same_grads(net: Net, other: Net) -> None:
    for (name, value), expected in zip(net.grads.items(), other.grads.values(), strict=True):
        assert (value is None) == (expected is None), name
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(NETS))
@every_batching
def test_meta_backward_is_backward(name: str, batching: Batching) -> None:
    net, other = NETS[name](), NETS[name]()
    for spec, momentum in product(("maml", "adjoint"), (0.0, 0.6)):  # each adds to the last grads
        problems, others = (each.problems(momentum=momentum) for each in (net, other))
        result = meta_backward(create(spec), problems, net.module, batching=batching)
        expected = backward(others, other)
        assert_same_grads(net, other)
        assert float(result) == pytest.approx(float(expected), rel=EXACT)
        assert result.shape == ()
        assert not result.requires_grad


@every_batching
def test_meta_backward_adds_in_place_and_shares_no_memory(batching: Batching) -> None:
    net = mlp_net()
    problems = net.problems()
    for value in net.module.parameters():
        value.grad = torch.ones_like(value)
    own = [value.grad for value in net.module.parameters()]
    meta_backward(create("fomaml"), problems, net.module, batching=batching)
    expected = estimate_batch(create("fomaml"), problems, net.params).gradient
    for (name, value), grad in zip(net.module.named_parameters(), own, strict=True):
        assert grad is not None
        assert value.grad is grad
        torch.testing.assert_close(value.grad, 1 + expected[name])
        grad.zero_()
    meta_backward(create("fomaml"), problems, net.module, batching=batching)
    torch.testing.assert_close(net.grads, dict(expected), rtol=1e-9, atol=1e-12)


def frozen() -> Net:
    net = mlp_net()
    net.module.get_parameter("0.weight").requires_grad_(False)
    return net


def tied() -> Net:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2))
    module[2].weight = module[0].weight
    return Net(seeded(module), functional.mse_loss, regression)


@every_batching
@pytest.mark.parametrize("build", [frozen, tied])
def test_frozen_and_tied_parameters_get_the_grads_of_backward(
    build: Callable[[], Net], batching: Batching
) -> None:
    net, other = build(), build()
    problems = net.problems()
    meta_backward(create("maml"), problems, net.module, batching=batching)
    backward(other.problems(), other)
    assert (net.module.get_parameter("0.weight").grad is None) is (build is frozen)
    assert_same_grads(net, other)


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


@every_batching
def test_step_sizes_get_their_grad(batching: Batching) -> None:
    specs = ("maml", "maml(checkpoint='sqrt')", "adjoint")
    for momentum, (spec, shapes) in product(
        (0.0, 0.6),
        (("maml", "alike"), ("maml", "one for each"), *((spec, "broadcast") for spec in specs)),
    ):
        net, other = mlp_net(), mlp_net()
        sizes, others = step_sizes(SHAPES[shapes]), step_sizes(SHAPES[shapes])
        for _ in range(2):
            problems = net.problems(step_size=sizes, momentum=momentum)
            meta_backward(create(spec), problems, net.module, batching=batching)
            backward(other.problems(step_size=others, momentum=momentum), other)
            assert_same_grads(net, other)
            for name, size in sizes.items():
                grad = size.grad
                assert grad is not None
                assert grad.shape == size.shape
                torch.testing.assert_close(grad, others[name].grad, rtol=1e-9, atol=1e-12)


@every_batching
def test_truncated_gives_step_sizes_the_grad_of_the_last_steps(batching: Batching) -> None:
    net, other = mlp_net(), mlp_net()
    sizes, others = step_sizes(SHAPES["alike"]), step_sizes(SHAPES["alike"])
    sizes["0.bias"].requires_grad_(False)
    problems = net.problems(step_size=sizes)
    meta_backward(create("truncated(order=2)"), problems, net.module, batching=batching)
    backward(other.problems(step_size=others), other, STEPS - 2)
    assert_same_grads(net, other)
    assert sizes.pop("0.bias").grad is None
    for name, size in sizes.items():
        torch.testing.assert_close(size.grad, others[name].grad, rtol=1e-9, atol=1e-12)


@every_batching
def test_problems_must_share_their_step_sizes(batching: Batching) -> None:
    net = mlp_net()
    one, other = (net.problem(task, step_size=step_sizes(SHAPES["alike"])) for task in range(2))
    for problems in ([one, other], [one, net.problem(1)], [net.problem(1), one]):
        with pytest.raises(OptionError, match="share their step sizes"):
            meta_backward(create("maml"), problems, net.module, batching=batching)
    assert all(value.grad is None for value in net.module.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_step_sizes_may_be_computed_from_what_is_learnt() -> None:
    net, other = mlp_net(), mlp_net()

    def learnt(of: Net, logarithm: Tensor) -> list[BilevelProblem]:
        sizes = {name: 0.1 * logarithm.exp() for name in of.params}
        return of.problems(step_size=sizes)

    mine, its = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    meta_backward(create("maml"), learnt(net, mine), net.module)
    backward(learnt(other, its), other)
    torch.testing.assert_close(mine.grad, its.grad, rtol=1e-9, atol=1e-12)


def test_hooks_are_called_as_by_backward() -> None:
    net = mlp_net()
    seen: list[Tensor] = []
    weight = net.module.get_parameter("0.weight")
    weight.register_post_accumulate_grad_hook(seen.append)  # type: ignore[no-untyped-call]
    meta_backward(create("maml"), [net.problem(0)], net.module)
    assert len(seen) == 1
