"""FLOPs of every estimator against what theory says, in units of one inner gradient."""

from functools import cache, partial

import pytest
import torch

from estimators import BilevelProblem, Params, available, create
from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.probes.flops import count_flops

K = 5
J = 4
MODELS = [("sinusoid", "mlp-40-40"), ("glyphs:5way-1shot", "conv4-16")]

# A gradient is 1; a product 2, and 1 more where its point's gradient graph is built for it alone.
# The outer gradient is counted by itself, since query sets are larger than support sets.
INNER = {
    "maml": K + 2 * K,
    "maml(checkpoint='sqrt')": K + 3 * K,
    "adjoint": K + 3 * K,
    "adjoint(engine='func')": K + 3 * K,
    "hf-maml": K + 2 * K,
    "fomaml": K,
    "reptile": K,
    f"imaml(cg_steps={J}, tolerance=0.0)": K + 1 + 2 * J,
    f"neumann(terms={J})": K + 1 + 2 * J,
    "mixed": K + 3 * K,
    "hybrid(order=2, window=4)": K + 4 + 2 * 2 * 3,
    **{f"truncated(order={order})": K + 2 * order for order in range(K + 1)},
    **{
        f"{name}(order={order})": K + K + 2 * order * (K - order + 1)
        for name in ("binom", "binom-released")
        for order in range(2, K + 1)
    },
    **{
        f"binom(batching='vmap', order={order})": K + 3 * order * (K - order + 1)
        for order in range(1, K + 1)
    },
    **{
        f"binom-calibrated(order={order})": K + K + order * (2 * K - order + 1)
        for order in range(1, K + 1)
    },
}
OUTER = {"mixed": K}  # outer gradients; 1 for all others but reptile, which takes none


@cache
def problem(task: str, model: str) -> tuple[BilevelProblem, Params]:
    cell = Cell.of(estimator="maml", task=task, model=model, depth=K)
    return bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")


def test_every_estimator_has_its_cost() -> None:
    covered = {spec.partition("(")[0] for spec in INNER}
    assert covered >= set(available()) - {"anil"}  # whose inner gradient depends on its head


@pytest.mark.parametrize(("task", "model"), MODELS)
@pytest.mark.parametrize("spec", INNER)
def test_flops_are_those_of_the_cost_model(spec: str, task: str, model: str) -> None:
    bilevel, params = problem(task, model)
    point = leaves(params)
    inner = count_flops(partial(value_and_gradient, bilevel.inner_loss, point))
    outer = OUTER.get(spec, 1) * count_flops(partial(value_and_gradient, bilevel.outer_loss, point))
    if spec == "reptile":
        outer = count_flops(partial(bilevel.outer_loss, params))
    counted = count_flops(partial(create(spec), bilevel, params))
    # 2 % for first layers, whose input needs no derivative.
    assert counted == pytest.approx(INNER[spec] * inner + outer, rel=0.02)


@pytest.mark.parametrize(("task", "model"), MODELS)
def test_anil_is_cheaper_than_maml(task: str, model: str) -> None:
    bilevel, params = problem(task, model)
    counts = [count_flops(partial(create(name), bilevel, params)) for name in ("anil", "maml")]
    assert counts[0] < counts[1]
