"""A meta-batch is the mean of its problems."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from estimators import (
    BilevelProblem,
    MetaBatch,
    OptionError,
    available,
    create,
    estimate_batch,
    meta_backward,
    module_problem,
    trainable,
)
from estimators.base.meta_batch import Batching
from estimators.base.module_loss import Batch
from harness.probes.memory import peak_memory
from harness.tasks import TASKS
from tests.support.modules import (
    BATCHINGS,
    COUNT,
    NETS,
    STEPS,
    Net,
    assert_close,
    assert_mean,
    every_batching,
    mlp,
    mlp_net,
    regression,
    seeded,
)
from tests.support.oracle import flatten, relative_error

OPTIONS = {
    "binom": "(order=2)",
    "binom-chebyshev": "(order=2)",
    "binom-released": "(order=2)",
    "contrastive": "(lam=2.0, delta=0.01)",
    "forward-gradient": "(n=2)",
    "hybrid": "(order=1, window=2)",
    "imaml": "(lam=2.0)",
    "krylov": "(products=2)",
    "neumann": "(terms=2, lam=2.0)",
    "roulette": "(rate=0.8)",
    "truncated": "(order=2)",
    "ufom": "(q=0.3)",
}
VARIANTS = [
    "adjoint(checkpoint='sqrt')",
    "adjoint(engine='finite-difference')",
    "adjoint(engine='func')",
    "binom(order=1)",
    "binom(order=2, batching='vmap')",
    "binom(order=2, batching='chunk(2)')",
    "binom-chebyshev(order=2, engine='func')",
    "contrastive(lam=2.0)",
    "imaml(lam=2.0, solver='nystrom')",
    "maml(checkpoint='sqrt')",
    "mixed(weights='maml++', progress=0.5)",
    "mixed(weights='geometric')",
]
OTHERS = ("naive", "dice", "lvc", "loaded-dice", "implicit")  # not for gradient descent alone
SPECS = [name + OPTIONS.get(name, "") for name in available() if name not in OTHERS] + VARIANTS
SEPARABLE = [spec for spec in SPECS if create(spec).batchable]
MOMENTUM = ("maml", "adjoint", "fomaml", "truncated(order=2)")
TOGETHER = [spec for spec in SPECS if spec not in SEPARABLE]


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not create(spec).is_random])
def test_both_batchings_are_the_mean_of_estimates(spec: str) -> None:
    estimator = create(spec)
    for net, momentum in product((build() for build in NETS.values()), (0.0, 0.7)):
        if momentum and spec not in MOMENTUM:
            continue
        problems = net.problems(momentum=momentum)
        loop = estimate_batch(estimator, problems, net.params)
        assert_mean(loop, estimator, problems)
        if spec in SEPARABLE:
            at_once = estimate_batch(estimator, problems, net.params, batching="vmap")
            assert_mean(at_once, estimator, problems)
            assert_close(at_once.gradient, loop.gradient)


@every_batching
def test_meta_batches_of_one_problem_and_of_depth_zero(batching: Batching) -> None:
    net, maml = mlp_net(), create("maml")
    problem = net.problem(0)
    result = estimate_batch(maml, [problem], net.params, batching=batching)
    assert_close(result.gradient, maml(problem, net.params).gradient)
    assert result.step_size_gradient is None
    problems = net.problems(steps=0)
    assert_mean(estimate_batch(maml, problems, net.params, batching=batching), maml, problems)


def test_vmap_is_refused_where_problems_would_depend_on_each_other() -> None:
    assert {"maml", "adjoint", "binom(order=2)", "mixed"} <= set(SEPARABLE)
    assert {"imaml(lam=2.0)", "hf-maml", "adjoint(engine='finite-difference')"} <= set(TOGETHER)
    net = mlp_net()
    for spec in TOGETHER:
        with pytest.raises(OptionError, match='"loop"'):
            estimate_batch(create(spec), net.problems(), net.params, batching="vmap")


def relabelled(batch: Batch) -> Batch:
    return batch[0], batch[1][:, :1]


def other_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets[:, :1]).abs().sqrt().sum()


NET = mlp_net()
ODD = {
    "steps": NET.problem(1, steps=STEPS + 1),
    "step size": NET.problem(1, step_size=0.2),
    "momentum": NET.problem(1, momentum=0.5),
    "module": NET.problem(1, module=mlp()),
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


def test_problems_that_differ_in_more_than_data_are_for_a_loop_only() -> None:
    usual, maml = [NET.problem(0), NET.problem(2)], create("maml")
    for odd in ODD.values():
        for problems in ([odd, *usual], [*usual, odd]):
            with pytest.raises(OptionError, match='"vmap"'):
                estimate_batch(maml, problems, NET.params, batching="vmap")
        assert_mean(estimate_batch(maml, problems, NET.params), maml, problems)


def test_wrong_arguments_are_refused() -> None:
    alike = [NET.problem(0, criterion=other_loss), ODD["support targets"]]
    wrong: dict[str, tuple[Any, Any, Any]] = {
        "data of one shape": (create("maml"), alike, "vmap"),
        "at least one problem": (create("maml"), [], "loop"),
        "'pmap' is neither": (create("maml"), [NET.problem(0)], "pmap"),
        "list of problems": (create("maml"), NET.problem(0), "loop"),
        "expected an estimator": ("maml", [NET.problem(0)], "loop"),
    }
    for message, (estimator, problems, batching) in wrong.items():
        with pytest.raises(OptionError, match=message):
            estimate_batch(estimator, problems, NET.params, batching=batching)


@every_batching
def test_parameters_are_left_as_they_are(batching: Batching) -> None:
    for spec in ("maml", "binom(order=2)", "reptile"):
        net = mlp_net()
        params = dict(net.module.named_parameters())
        before = {name: value.detach().clone() for name, value in params.items()}
        with torch.no_grad():
            result = estimate_batch(create(spec), net.problems(), params, batching=batching)
        for name, value in params.items():
            assert torch.equal(value, before[name])
            assert value.grad is None
            assert value.requires_grad
            assert not result.gradient[name].requires_grad


def test_training_lowers_the_outer_loss() -> None:
    family = TASKS.create("sinusoid")
    module = seeded(nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1)))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)

    def problems(first: int, count: int) -> list[BilevelProblem]:
        tasks = [family.sample(seed) for seed in range(first, first + count)]
        return [
            module_problem(module, family.loss, t.support, t.query, step_size=0.02, steps=3)
            for t in tasks
        ]

    def score() -> float:
        held_out = problems(10_000, 25)
        result = estimate_batch(create("fomaml"), held_out, trainable(module), batching="vmap")
        return float(result.outer_loss)

    before = score()
    for step in range(40):
        optimiser.zero_grad()
        meta_backward(create("maml"), problems(6 * step, 6), module, batching="vmap")
        optimiser.step()
    assert score() < 0.9 * before


def test_memory_of_a_loop_is_that_of_one_problem() -> None:
    module = seeded(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)))
    net = Net(module, functional.mse_loss, regression)
    data = [(net.batch(2 * task, 200), net.batch(2 * task + 1, 200)) for task in range(8)]
    problems = [net.problem(0, support=support, query=query) for support, query in data]

    def peak(spec: str, count: int, batching: Batching) -> int:
        def work() -> MetaBatch:
            return estimate_batch(create(spec), problems[:count], net.params, batching=batching)

        work()
        return peak_memory(work, "cpu")

    for spec in ("maml", "binom(order=2)"):
        one, two, all_of_them = (peak(spec, count, "loop") for count in (1, 2, 8))
        assert all_of_them == two, spec
        assert two < 1.05 * one, spec
        assert peak(spec, 8, "vmap") > 4 * one, spec


@pytest.mark.parametrize("name", list(NETS))
def test_autocast_around_meta_backward(name: str) -> None:
    def single(batch: Batch) -> Batch:
        inputs, targets = batch
        return inputs.float(), targets.float() if targets.is_floating_point() else targets

    for spec, batching in product(("maml", "binom(order=2)"), BATCHINGS):
        net = NETS[name]()
        net.module.float()
        problems = [
            net.problem(t, support=single(net.batch(2 * t)), query=single(net.batch(2 * t + 1)))
            for t in range(COUNT)
        ]
        expected = estimate_batch(create(spec), problems, net.params).gradient
        with torch.autocast("cpu", torch.bfloat16):
            loss = meta_backward(create(spec), problems, net.module, batching=batching)
        grads = {key: value for key, value in net.grads.items() if value is not None}
        assert {value.dtype for value in grads.values()} == {torch.float32} == {loss.dtype}
        assert 0 < relative_error(grads, flatten(expected)) < 0.2, (spec, batching)
