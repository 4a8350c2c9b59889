"""The cost that every estimator states, against counted FLOPs, in units of one inner gradient."""

from functools import partial

import pytest
import torch

from estimators import Estimator, available, create
from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from estimators.bounds import Bounded
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.probes.flops import count_flops

ORDERED = ("truncated", "binom", "binom-chebyshev")
SPECS = [
    *("maml", "maml(checkpoint='sqrt')", "adjoint", "adjoint(engine='func')", "hf-maml"),
    *("adjoint(checkpoint='sqrt')", "hf-maml(checkpoint='sqrt')", "drmad", "lazy"),
    *("imaml(solver='nystrom', rank=4)", "contrastive", "contrastive(sides=1, delta=0.01)"),
    "lazy(gamma=0.5, beta=0.0)",
    *("fomaml", "reptile", "imaml(cg_steps=4, tolerance=0.0)", "neumann(terms=4)"),
    *("mixed", "mixed(weights=(1, 0, 0, 2, 1))", "hybrid(order=2, window=4)"),
    *(f"{name}(order={order})" for name in ORDERED for order in (0, 2, 5)),
    *("binom-released(order=2)", "binom(engine='finite-difference', order=1)"),
    "binom(batching='vmap', order=3)",
    *("krylov(products=2)", "krylov(products=4, segments=2)", "krylov(products=5)"),
]

# Outer gradients, where they are not one.
OUTERS = {
    "mixed": 5,
    "mixed(weights=(1, 0, 0, 2, 1))": 3,
    "reptile": 0,
    "contrastive": 11,
    "contrastive(sides=1, delta=0.01)": 5,
}


def test_every_estimator_has_its_cost() -> None:
    covered = {spec.partition("(")[0] for spec in SPECS}
    others = {"anil"}  # whose inner gradient depends on its head
    others |= {"roulette", "ufom", "forward-gradient"}  # see test_random.py
    others |= {"naive", "dice", "lvc", "loaded-dice"}  # whose gradients are of episodes
    others |= {"implicit"}  # which is for frozen parameters only
    assert covered == set(available()) - others


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("sinusoid", "mlp-40-40"),
        pytest.param("glyphs:5way-1shot", "conv4-16", marks=pytest.mark.slow),
    ],
)
def test_flops_are_those_of_the_stated_cost(task: str, model: str) -> None:
    cell = Cell.of(estimator="maml", task=task, model=model, depth=5)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    point = leaves(params)
    inner = count_flops(partial(value_and_gradient, problem.inner_loss, point))
    outer = count_flops(partial(value_and_gradient, problem.outer_loss, point))
    for spec in SPECS:
        estimator = create(spec)
        cost = estimator.cost(5)
        assert cost
        # Query sets are larger than support sets, and Reptile only evaluates its outer loss.
        outers = OUTERS.get(spec, 1)
        expected = (cost.in_gradients() - outers) * inner + outers * outer
        if spec == "reptile" or spec.startswith("contrastive"):
            expected += count_flops(partial(problem.outer_loss, params))
        if "vmap" in spec:  # side by side, each product has a graph that is only its
            expected += (cost.hvps - 5) * inner
        result = estimator(problem, params)
        assert (result.hvps, result.serial_depth) == (cost.hvps, cost.serial_depth), spec
        counted = count_flops(partial(estimator, problem, params))
        # 2 % for first layers, whose input needs no derivative; more for products of bases.
        slack = 0.05 if spec.startswith("krylov") else 0.02
        assert counted == pytest.approx(expected, rel=slack), spec
    counts = [count_flops(partial(create(name), problem, params)) for name in ("anil", "maml")]
    assert counts[0] < counts[1]


def test_who_overrides_the_estimate_inherits_neither_cost_nor_bound() -> None:
    binom = type(create("binom(order=1)"))
    same = type("Same", (binom,), {})(order=1)
    other = type("Other", (binom,), {"estimate": lambda *_: None})(order=1)
    assert same.cost(5) == create("binom(order=1)").cost(5)
    assert isinstance(other, Estimator)
    assert other.cost(5) is None
    assert other.error_bound(Bounded(1.0), 0.1, 5) is None
