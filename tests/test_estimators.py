"""What every estimator computes and counts, against the dense reference, in float64."""

from dataclasses import replace

import pytest
import torch

from estimators import BilevelProblem, MetaGradient, OptionError, Params, create
from estimators.hvp import count_hvps
from tests.cases import CURVED, NAMES, case, oracle
from tests.oracle import Oracle, relative_error

DEEPEST = 6
DEPTHS = range(DEEPEST + 1)
ORDERS = [(steps, order) for steps in DEPTHS for order in range(steps + 1)]
EXACT = 1e-10


def estimate(spec: str, name: str, steps: int) -> MetaGradient:
    found = case(name)
    return create(spec)(found.problem(steps), found.params)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_binom_is_the_sum_over_subsets(name: str, steps: int, order: int) -> None:
    result = estimate(f"binom(order={order})", name, steps)
    assert relative_error(result.gradient, oracle(name, steps).binomial(order)) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_truncated_is_the_product_of_the_last_steps(name: str, steps: int, order: int) -> None:
    result = estimate(f"truncated(order={order})", name, steps)
    assert relative_error(result.gradient, oracle(name, steps).truncated(order)) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS)
def test_exact_estimators_are_the_whole_product(name: str, steps: int) -> None:
    for spec in ("maml", "adjoint", f"binom(order={steps})", f"truncated(order={steps})"):
        result = estimate(spec, name, steps)
        assert relative_error(result.gradient, oracle(name, steps).exact()) < EXACT, spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS)
def test_first_order_estimators_are_the_outer_gradient(name: str, steps: int) -> None:
    for spec in ("fomaml", "binom(order=0)", "truncated(order=0)"):
        result = estimate(spec, name, steps)
        assert relative_error(result.gradient, oracle(name, steps).outer_gradient) < EXACT, spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS[1:])
def test_reptile_is_the_sum_of_inner_gradients(name: str, steps: int) -> None:
    result = estimate("reptile", name, steps)
    assert relative_error(result.gradient, oracle(name, steps).reptile()) < EXACT


@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_products_are_counted_as_the_formulas_say(steps: int, order: int) -> None:
    expected = {
        "maml": (steps, steps),
        "adjoint": (steps, steps),
        "fomaml": (0, 0),
        "reptile": (0, 0),
        f"truncated(order={order})": (order, order),
        f"binom(order={order})": (order * (steps - order + 1), order),
    }
    for spec, (hvps, serial_depth) in expected.items():
        result = estimate(spec, "quartic", steps)
        assert (result.hvps, result.serial_depth) == (hvps, serial_depth), spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), [(1, 1), (3, 2), (5, 1), (5, 4), (6, 3)])
def test_products_are_counted_as_they_are_taken(name: str, steps: int, order: int) -> None:
    for spec in ("adjoint", f"binom(order={order})", f"imaml(lam=4.0, cg_steps={order})"):
        with count_hvps() as counter:
            result = estimate(spec, name, steps)
        assert result.hvps == counter.products > 0, spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_imaml_descends_the_proximal_loss(name: str, steps: int) -> None:
    lam = case(name).lam
    result = estimate(f"imaml(lam={lam})", name, steps)
    end = oracle(name, steps).proximal_descent(lam)
    assert relative_error(result.adapted, end) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 5])
def test_imaml_solves_the_implicit_system_where_it_adapted_to(name: str, steps: int) -> None:
    lam, reference = case(name).lam, oracle(name, steps)
    result = estimate(f"imaml(lam={lam}, cg_steps=60, tolerance=1e-14)", name, steps)
    solution = reference.implicit(reference.proximal_descent(lam), lam)
    assert relative_error(result.gradient, solution) < EXACT


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("cg_steps", [1, 2, 3, 4])
def test_imaml_stops_after_the_steps_it_is_given(name: str, cg_steps: int) -> None:
    lam, reference = case(name).lam, oracle(name, 3)
    result = estimate(f"imaml(lam={lam}, cg_steps={cg_steps})", name, 3)
    best = reference.implicit_in_krylov_space(reference.proximal_descent(lam), lam, cg_steps)
    assert relative_error(result.gradient, best) < 1e-8
    assert result.hvps == result.serial_depth == cg_steps


def test_imaml_stops_at_its_tolerance() -> None:
    lam, reference = case("mlp").lam, oracle("mlp", 3)
    solution = reference.implicit(reference.proximal_descent(lam), lam)
    close = estimate(f"imaml(lam={lam}, cg_steps=60, tolerance=1e-6)", "mlp", 3)
    rough = estimate(f"imaml(lam={lam}, cg_steps=60, tolerance=0.01)", "mlp", 3)
    assert relative_error(close.gradient, solution) < 1e-5
    assert 1e-5 < relative_error(rough.gradient, solution) < 0.05
    assert rough.hvps < close.hvps < 60


def test_tolerance_of_imaml_is_relative() -> None:
    found = case("mlp")
    faint = replace(found, outer_loss=lambda params: 1e-6 * found.outer_loss(params))
    imaml = create("imaml(lam=1.0, cg_steps=60, tolerance=0.01)")
    results = [imaml(each.problem(3), each.params) for each in (found, faint)]
    assert results[0].hvps == results[1].hvps


def test_imaml_needs_one_product_where_there_is_no_curvature() -> None:
    result = estimate("imaml(lam=1.0)", "linear", 3)
    assert result.hvps == result.serial_depth == 1


def test_imaml_stops_where_the_curvature_is_negative() -> None:
    def inner_loss(params: Params) -> torch.Tensor:
        return 0.5 * (params["w"].square() * torch.tensor([1.0, -3.0]).double()).sum()

    def outer_loss(params: Params) -> torch.Tensor:
        return params["w"] @ torch.tensor([3.0, 1.0]).double()

    theta = {"w": torch.ones(2).double()}
    result = create("imaml(lam=1.0)")(BilevelProblem(inner_loss, outer_loss, 0.1, 1), theta)
    reference = Oracle(inner_loss, outer_loss, 0.1, 1, theta)
    one_step = reference.implicit_in_krylov_space(reference.proximal_descent(1.0), 1.0, 1)
    assert result.hvps == 2
    assert relative_error(result.gradient, one_step) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_imaml_knows_its_own_exact_gradient(name: str, steps: int) -> None:
    found = case(name)
    own = create("imaml", lam=found.lam).own_exact_gradient(found.problem(steps), found.params)
    assert own is not None
    assert relative_error(own, oracle(name, steps).proximal_exact(found.lam)) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_imaml_is_exact_at_the_minimiser(name: str) -> None:
    found, reference = case(name), oracle(name, 250)
    imaml = create("imaml", lam=found.lam, cg_steps=60)
    problem = found.problem(250)
    result = imaml(problem, found.params)
    own = imaml.own_exact_gradient(problem, found.params)
    assert own is not None
    minimiser = reference.proximal_minimiser(found.lam)
    assert relative_error(result.adapted, minimiser) < 1e-8
    assert relative_error(result.gradient, reference.implicit(minimiser, found.lam)) < 1e-8
    assert relative_error(own, reference.implicit(minimiser, found.lam)) < 1e-8


@pytest.mark.parametrize("spec", ["maml", "adjoint", "fomaml", "binom(order=1)", "imaml(lam=2.0)"])
def test_outer_loss_that_ignores_the_parameters_is_refused(spec: str) -> None:
    found = case("linear")
    problem = BilevelProblem(found.inner_loss, lambda _: torch.ones(()), found.step_size, 2)
    with pytest.raises(OptionError, match="differentiable"):
        create(spec)(problem, found.params)
