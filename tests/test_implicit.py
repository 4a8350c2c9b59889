"""Results and counts of the implicit estimators against the dense reference, in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from estimators import BilevelProblem, OptionError, Params, create
from estimators.hvp import count_hvps
from harness.conformance.cases import case
from tests.support.cases import (
    EXACT,
    assert_estimate,
    estimate,
    every_case,
    every_curved_case,
    kinked,
    oracle,
)
from tests.support.oracle import Loss, Oracle, flatten, relative_error


@every_case
def test_imaml_solves_the_implicit_system_at_the_end_of_the_proximal_descent(name: str) -> None:
    lam = case(name).lam
    for steps in (0, 1, 3, 5):
        reference = oracle(name, steps)
        end = reference.proximal_descent(lam)
        spec = f"imaml(lam={lam}, cg_steps=60, tolerance=1e-14)"
        result = assert_estimate(spec, name, steps, reference.implicit(end, lam))
        assert relative_error(result.adapted, end) < EXACT, steps


@every_curved_case
def test_imaml_stops_after_the_steps_it_is_given(name: str) -> None:
    lam, reference = case(name).lam, oracle(name, 3)
    end = reference.proximal_descent(lam)
    for cg_steps in (1, 2, 3, 4):
        best = reference.implicit_in_krylov_space(end, lam, cg_steps)
        result = assert_estimate(f"imaml(lam={lam}, cg_steps={cg_steps})", name, 3, best, 1e-8)
        assert result.hvps == result.serial_depth == cg_steps


def test_imaml_stops_at_its_tolerance_which_is_relative() -> None:
    example, reference = case("mlp"), oracle("mlp", 3)
    solution = reference.implicit(reference.proximal_descent(1.0), 1.0)
    close = estimate("imaml(lam=1.0, cg_steps=60, tolerance=1e-6)", "mlp", 3)
    imaml = create("imaml(lam=1.0, cg_steps=60, tolerance=0.01)")
    faint = replace(example, outer_loss=lambda params: 1e-6 * example.outer_loss(params))
    rough, other = (imaml(each.problem(3), each.params) for each in (example, faint))
    assert relative_error(close.gradient, solution) < 1e-5
    assert 1e-5 < relative_error(rough.gradient, solution) < 0.05
    assert other.hvps == rough.hvps < close.hvps < 60


def test_imaml_stops_early_where_the_curvature_is_zero_or_negative() -> None:
    result = estimate("imaml(lam=1.0)", "linear", 3)
    assert result.hvps == result.serial_depth == 1

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


@every_case
def test_implicit_estimators_know_their_own_exact_gradient(name: str) -> None:
    example = case(name)
    for estimator in (
        create("imaml", lam=example.lam),
        create("neumann", terms=1, lam=example.lam),
        create("contrastive", lam=example.lam),
    ):
        for steps in (0, 1, 5):
            own = estimator.own_exact_gradient(example.problem(steps), example.params)
            assert own is not None
            expected = oracle(name, steps).proximal_exact(example.lam)
            assert relative_error(own, expected) < EXACT, (estimator, steps)


@every_case
def test_imaml_is_exact_at_the_minimiser(name: str) -> None:
    example, reference = case(name), oracle(name, 0)
    imaml, problem = create("imaml", lam=example.lam, cg_steps=60), example.problem(250)
    result = imaml(problem, example.params)
    own = imaml.own_exact_gradient(problem, example.params)
    assert own is not None
    minimiser = reference.proximal_minimiser(example.lam)
    assert relative_error(result.adapted, minimiser) < 1e-8
    assert relative_error(result.gradient, reference.implicit(minimiser, example.lam)) < 1e-8
    assert relative_error(own, reference.implicit(minimiser, example.lam)) < 1e-8


@every_case
def test_nystrom_solves_the_system_of_the_low_rank_hessian(name: str) -> None:
    lam, size = case(name).lam, len(flatten(case(name).params))
    for steps in (0, 3):
        reference = oracle(name, steps)
        end = reference.proximal_descent(lam)
        for rank in (1, 2, 3, 50):
            count = min(rank, size)
            indices = [int((i + 0.5) * size / count) for i in range(count)]
            expected = reference.nystrom(end, lam, indices)
            spec = f"imaml(lam={lam}, solver='nystrom', rank={rank})"
            with count_hvps() as counter:
                result = assert_estimate(spec, name, steps, expected, 1e-9)
            assert counter.products == result.hvps == count
            assert result.serial_depth == 1
            assert relative_error(result.adapted, end) < EXACT


def test_nystrom_of_all_columns_is_the_solution_where_the_loss_is_convex() -> None:
    matrix = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]]).double()

    def inner_loss(params: Params) -> torch.Tensor:
        return 0.5 * params["w"] @ matrix @ params["w"]

    def outer_loss(params: Params) -> torch.Tensor:
        return params["w"].exp().sum()

    theta = {"w": torch.tensor([1.0, -1.0, 2.0]).double()}
    reference = Oracle(inner_loss, outer_loss, 0.1, 5, theta)
    solution = reference.implicit(reference.proximal_descent(1.5), 1.5)
    imaml = create("imaml(lam=1.5, solver='nystrom', rank=3)")
    result = imaml(BilevelProblem(inner_loss, outer_loss, 0.1, 5), theta)
    assert relative_error(result.gradient, solution) < EXACT


@every_case
def test_contrastive_is_the_derivative_of_the_descent_by_the_nudge(name: str) -> None:
    lam = case(name).lam
    for steps in (1, 3, 5):
        reference = oracle(name, steps)
        for options, tolerance in (("", 1e-6), (", sides=1", 1e-5), (", delta=1e-5", 1e-6)):
            spec = f"contrastive(lam={lam}{options})"
            result = assert_estimate(spec, name, steps, reference.contrast(lam), tolerance)
            assert relative_error(result.adapted, reference.proximal_descent(lam)) < 1e-8, spec
            assert result.hvps == 0


@every_case
def test_contrastive_at_the_minimiser_is_implicit_up_to_delta(name: str) -> None:
    example, reference, lam = case(name), oracle(name, 250), case(name).lam
    solution = reference.implicit(reference.proximal_minimiser(lam), lam)
    spec = f"contrastive(lam={lam}, delta=0.01)"
    assert_estimate(spec, name, 250, reference.contrasted(lam, 0.01), 1e-8)
    for sides, shrinks in ((1, 2.0), (2, 4.0)):
        errors = [
            relative_error(
                create("contrastive", lam=lam, delta=delta, sides=sides)(
                    example.problem(250), example.params
                ).gradient,
                solution,
            )
            for delta in (0.02, 0.01)
        ]
        if max(errors) > 1e-8:
            assert errors[0] / errors[1] == pytest.approx(shrinks, rel=0.15), sides


def test_default_nudge_of_contrastive_crosses_few_kinks_and_drowns_in_no_rounding() -> None:
    for seed in range(5):
        reference = None
        for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-2)):
            example = kinked(dtype, seed)
            problem = example.problem(3)
            if reference is None:
                losses = example.inner_loss, example.outer_loss
                oracle = Oracle(*losses, example.step_size, 3, example.params)
                reference = oracle.contrast(10.0)
            faint = replace(problem, outer_loss=partial(scaled_down, example.outer_loss))
            for each, scale in ((problem, 1.0), (faint, 1e-6)):
                result = create("contrastive(lam=10.0)")(each, example.params)
                error = relative_error(result.gradient, scale * reference)
                assert error < tolerance, (seed, dtype, scale)


def scaled_down(loss: Loss, params: Params) -> torch.Tensor:
    return 1e-6 * loss(params)


def test_contrastive_has_nothing_to_say_of_no_steps() -> None:
    with pytest.raises(OptionError, match="depth 0"):
        estimate("contrastive(lam=1.0)", "mlp", 0)


@every_case
def test_neumann_is_the_series_at_the_end_of_the_proximal_descent(name: str) -> None:
    lam = case(name).lam
    for steps in (0, 1, 5):
        reference = oracle(name, steps)
        end = reference.proximal_descent(lam)
        for terms in range(5):
            expected = reference.neumann(end, lam, terms)
            result = assert_estimate(f"neumann(lam={lam}, terms={terms})", name, steps, expected)
            assert relative_error(result.adapted, end) < EXACT
            assert result.hvps == result.serial_depth == terms


def test_nystrom_takes_parameters_of_any_layout() -> None:
    estimator = create("imaml(lam=1.5, solver='nystrom', rank=4)")
    matrix = torch.linspace(-1, 2, 6).double().reshape(2, 3)

    def loss(params: Params) -> torch.Tensor:
        return (params["w"] @ matrix).square().sum() + params["w"].exp().sum()

    problem = BilevelProblem(loss, lambda params: params["w"].exp().sum(), 0.01, 4)
    straight = torch.linspace(0, 1, 8).double().reshape(4, 2)
    turned = straight.T.contiguous().T
    expected = flatten(estimator(problem, {"w": straight}).gradient)
    assert relative_error(estimator(problem, {"w": turned}).gradient, expected) < EXACT


@pytest.mark.parametrize("size", [4, 40])
def test_nystrom_of_a_diverged_inner_loop_is_no_number(size: int) -> None:
    def inner_loss(params: Params) -> torch.Tensor:
        return 1e3 * params["w"].pow(4).sum() + params["w"].sum().pow(4)

    problem = BilevelProblem(inner_loss, lambda params: params["w"].sum(), 0.01, 6)
    imaml = create("imaml(solver='nystrom', rank=40)")
    gradient = imaml(problem, {"w": torch.linspace(1, 30, size)}).gradient["w"]
    assert gradient.shape == (size,)
    assert gradient.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e-12, 1e-8, 1e-5, 1e-3])
def test_default_nudge_is_small_where_theta_nearly_minimises_the_outer_loss(
    gap: float, dtype: torch.dtype
) -> None:
    theta = {"w": torch.tensor([0.5, 1.0, 1.5], dtype=dtype)}

    def inner_loss(params: Params) -> torch.Tensor:
        return (8 * (params["w"] - 3).square() + params["w"].cos()).sum()

    def outer_loss(params: Params) -> torch.Tensor:
        way = params["w"] - theta["w"] - gap
        return (way.square() + 0.3 * way**4).sum()

    problem = BilevelProblem(inner_loss, outer_loss, 0.01, 60)
    for options, tolerance in (("", 1e-3), (", sides=1", 1e-2)):
        estimator = create(f"contrastive(lam=20.0{options})")
        expected = estimator.own_exact_gradient(problem, theta)
        assert expected
        error = relative_error(estimator(problem, theta).gradient, flatten(expected))
        assert error < tolerance, options


def test_contrastive_of_an_infinite_slope_is_no_number() -> None:
    def outer_loss(params: Params) -> torch.Tensor:
        return torch.inf * params["w"].sum()

    problem = BilevelProblem(lambda params: params["w"].square().sum(), outer_loss, 0.01, 3)
    assert create("contrastive")(problem, {"w": torch.ones(2)}).gradient["w"].isnan().all()
