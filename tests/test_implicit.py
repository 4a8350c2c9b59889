"""What the implicit estimators compute and count, against the dense reference, in float64."""

from dataclasses import replace

import pytest
import torch

from estimators import BilevelProblem, Params, create
from harness.conformance.cases import case
from tests.support.cases import CURVED, NAMES, estimate, oracle
from tests.support.oracle import Oracle, flatten, relative_error

EXACT = 1e-10


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("terms", range(5))
def test_neumann_is_the_series_where_it_adapted_to(name: str, steps: int, terms: int) -> None:
    lam, reference = case(name).lam, oracle(name, steps)
    result = estimate(f"neumann(lam={lam}, terms={terms})", name, steps)
    end = reference.proximal_descent(lam)
    assert relative_error(result.adapted, end) < EXACT
    assert relative_error(result.gradient, reference.neumann(end, lam, terms)) < EXACT
    assert result.hvps == result.serial_depth == terms


@pytest.mark.parametrize("name", NAMES)
def test_neumann_nears_the_implicit_solution_where_lambda_exceeds_the_curvature(name: str) -> None:
    found = replace(case(name), step_size=0.01)
    curvature = torch.linalg.matrix_norm(oracle(name, 0).hessian(flatten(found.params)), ord=2)
    lam = 1 + 2 * float(curvature)
    reference = replace(oracle(name, 3), step_size=found.step_size)
    solution = reference.implicit(reference.proximal_descent(lam), lam)
    estimators = [create("neumann", terms=terms, lam=lam) for terms in (0, 5, 20, 60)]
    errors = [
        relative_error(estimator(found.problem(3), found.params).gradient, solution)
        for estimator in estimators
    ]
    assert errors[-1] < EXACT
    assert found.curved is (errors[0] > 10 * errors[1] > 100 * errors[2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_neumann_knows_its_own_exact_gradient(name: str, steps: int) -> None:
    found = case(name)
    neumann = create("neumann", terms=1, lam=found.lam)
    own = neumann.own_exact_gradient(found.problem(steps), found.params)
    assert own is not None
    assert relative_error(own, oracle(name, steps).proximal_exact(found.lam)) < EXACT
