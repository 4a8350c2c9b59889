"""The reference against finite differences and closed forms; cases that tell mistakes apart."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from harness.conformance.cases import case
from tests.support.cases import every_case, every_curved_case, oracle
from tests.support.oracle import Descent, Oracle, central_difference, flatten, unflatten

STEPS = 5


def relative(estimate: Tensor, reference: Tensor) -> float:
    return float((estimate - reference).norm() / reference.norm())


def directions(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, size, generator=generator, dtype=torch.float64)


@every_case
def test_exact_products_are_the_derivatives_of_the_adapted_losses(name: str) -> None:
    reference, lam = oracle(name, STEPS), case(name).lam
    theta = flatten(reference.theta)
    adapted: list[Callable[[Oracle], Tensor]]
    adapted = [lambda moved: moved.iterates[-1], lambda moved: moved.proximal_descent(lam)]
    for end, exact in zip(adapted, (reference.exact(), reference.proximal_exact(lam)), strict=True):

        def adapted_loss(flat: Tensor, end: Callable[[Oracle], Tensor] = end) -> float:
            moved = replace(reference, theta=unflatten(flat, reference.theta))
            return float(moved.value(moved.outer_loss, end(moved)))

        slopes = central_difference(adapted_loss, theta, torch.eye(len(theta)).double())
        assert relative(exact, slopes) < 1e-7


@every_case
def test_implicit_formula_is_the_derivative_of_the_loss_at_the_minimiser(name: str) -> None:
    reference, lam = oracle(name, 0), case(name).lam

    def minimiser_loss(flat: Tensor) -> float:
        moved = replace(reference, theta=unflatten(flat, reference.theta))
        return float(moved.value(moved.outer_loss, moved.proximal_minimiser(lam)))

    gradient = reference.implicit(reference.proximal_minimiser(lam), lam)
    probes = directions(len(gradient))
    slopes = central_difference(minimiser_loss, flatten(reference.theta), probes)
    assert relative(probes @ gradient, slopes) < 1e-7


@every_case
def test_contrast_is_the_derivative_of_the_proximal_descent_by_the_nudge(name: str) -> None:
    reference, lam = oracle(name, STEPS), case(name).lam
    probes = directions(len(reference.outer_gradient))
    for probe in probes:

        def along(nudge: Tensor, probe: Tensor = probe) -> float:
            return float(reference.nudged(float(nudge)).proximal_descent(lam) @ probe)

        zero, one = torch.zeros(1).double(), torch.ones(1, 1).double()
        slope = central_difference(along, zero, one)
        assert abs(-lam * slope - reference.contrast(lam) @ probe) < 1e-7 * lam


@every_case
def test_exact_gradient_of_a_leap_is_its_derivative(name: str) -> None:
    reference = oracle(name, STEPS)
    theta = flatten(reference.theta)

    def leapt_loss(flat: Tensor) -> float:
        moved = replace(reference, theta=unflatten(flat, reference.theta))
        return float(moved.value(moved.outer_loss, moved.leap(0.5, beta=0.0, place=0)[0]))

    slopes = central_difference(leapt_loss, theta, torch.eye(len(theta)).double())
    assert relative(reference.leap_exact(0.5), slopes) < 1e-7


@every_curved_case
def test_hessian_is_the_derivative_of_the_gradient(name: str) -> None:
    reference = oracle(name, STEPS)
    point, hessian = reference.iterates[2], reference.hessians[2]
    for direction in directions(len(point)):

        def slope(flat: Tensor, direction: Tensor = direction) -> float:
            return float(reference.gradient(reference.inner_loss, flat) @ direction)

        slopes = central_difference(slope, point, torch.eye(len(point)).double())
        assert relative(hessian @ direction, slopes) < 1e-7


def descent(name: str, steps: int) -> Descent:
    """Return a descent with momentum, from some velocity, with step sizes of several shapes."""
    reference = oracle(name, steps)
    size = len(flatten(reference.theta))
    spread, velocity, *_ = 0.2 * directions(size)
    sizes = {
        key: reference.step_size * (1 + value[:1] if value.dim() else 1 + value)
        for key, value in reversed(unflatten(spread, reference.theta).items())
    }
    return Descent(reference, sizes, momentum=0.7, velocity=velocity)


@every_case
def test_gradients_of_a_descent_are_the_derivatives_of_its_adapted_loss(name: str) -> None:
    moving, reference = descent(name, STEPS), oracle(name, STEPS)
    theta, sizes = flatten(reference.theta), flatten(moving.sizes)

    def adapted_loss(flat: Tensor) -> float:
        start, steps = flat[: len(theta)], flat[len(theta) :]
        moved = replace(
            moving,
            reference=replace(reference, theta=unflatten(start, reference.theta)),
            sizes=unflatten(steps, moving.sizes),
        )
        return float(reference.value(reference.outer_loss, moved.adapted))

    probes = torch.cat([torch.ones_like(theta), sizes]).diag()
    slopes = central_difference(adapted_loss, torch.cat([theta, sizes]), probes)
    assert relative(probes @ torch.cat(moving.gradients), slopes) < 1e-7


@every_case
def test_expansions_and_descents_have_the_ends_and_windows_of_each_other(name: str) -> None:
    reference, moving = oracle(name, STEPS), descent(name, STEPS)
    alpha = torch.tensor(reference.step_size, dtype=torch.float64)
    plain = Descent(reference, dict.fromkeys(reference.theta, alpha))
    assert relative(plain.adapted, reference.iterates[-1]) < 1e-13
    assert relative(plain.gradients[0], reference.exact()) < 1e-13
    for order in range(STEPS + 1):
        truncated = reference.truncated(order)
        assert relative(plain.last(order).gradients[0], truncated) < 1e-13
        assert relative(reference.binomial(order, window=order), truncated) < 1e-13
        whole = reference.binomial(order, window=STEPS, scale=reference.step_size)
        assert torch.equal(whole, reference.binomial(order))
        assert torch.equal(reference.binomial(order, scale=0.0), reference.outer_gradient)
        for each in (plain, moving):
            assert relative(each.last(order).adapted, each.adapted) < 1e-13
    for expansion in (reference.binomial, reference.truncated):
        assert torch.equal(expansion(0), reference.outer_gradient)
        assert relative(expansion(STEPS), reference.exact()) < 1e-13


def test_expansions_of_a_constant_hessian() -> None:
    matrix = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, -0.5]]).double()
    theta = torch.tensor([1.0, -2.0, 3.0]).double()
    reference = Oracle(
        lambda params: 0.5 * params["w"] @ matrix @ params["w"],
        lambda params: params["w"].pow(3).sum(),
        step_size=0.2,
        steps=STEPS,
        theta={"w": theta},
    )
    shrink = torch.eye(3).double() - 0.2 * matrix
    g = 3 * (torch.linalg.matrix_power(shrink, STEPS) @ theta).square()
    for order in range(STEPS + 1):
        terms = [
            comb(STEPS, size) * torch.linalg.matrix_power(-0.2 * matrix, size) @ g
            for size in range(order + 1)
        ]
        assert relative(reference.binomial(order), torch.stack(terms).sum(0)) < 1e-13
        power = torch.linalg.matrix_power(shrink, order)
        assert relative(reference.truncated(order), power @ g) < 1e-13
    assert relative(reference.along_the_line(), reference.exact()) < 1e-13
    _, leap = reference.leap(1.0, beta=STEPS * reference.step_size, place=2)
    assert relative(leap, reference.binomial(1)) < 1e-13


@every_case
def test_series_and_krylov_spaces_near_the_implicit_solution(name: str) -> None:
    reference, lam = oracle(name, STEPS), case(name).lam
    point = reference.iterates[-1]
    everything = reference.implicit_in_krylov_space(point, lam, len(point))
    assert relative(everything, reference.implicit(point, lam)) < 1e-8
    curvatures, directions = torch.linalg.eigh(reference.hessian(point))
    convex = directions @ curvatures.clamp(min=0).diag() @ directions.T
    identity, g = torch.eye(len(point)).double(), reference.outer_gradient
    whole = reference.nystrom(point, lam, [*range(len(point))])
    assert relative(whole, torch.linalg.solve(identity + convex / lam, g)) < 0.01
    lam = 1 + 2 * float(torch.linalg.matrix_norm(reference.hessian(point), ord=2))
    assert relative(reference.neumann(point, lam, 60), reference.implicit(point, lam)) < 1e-12


@every_curved_case
def test_hessians_do_not_commute_so_that_orders_of_products_and_expansions_show(name: str) -> None:
    reference = oracle(name, STEPS)
    for a, b in combinations(reference.hessians, 2):
        assert (a @ b - b @ a).norm() > 0.003 * a.norm() * b.norm()
    reverse = reference.product(list(reversed(range(STEPS))))
    assert relative(reverse, reference.exact()) > 1e-3
    estimates = [reference.binomial(order) for order in range(STEPS + 1)]
    estimates += [reference.truncated(order) for order in range(1, STEPS)]
    estimates += [reference.binomial(2, window) for window in range(3, STEPS)]
    scale = reference.step_size / STEPS
    estimates += [reference.binomial(order, scale=order * scale) for order in range(1, STEPS)]
    estimates += [reference.leap(1.0, beta=0.13, place=place)[1] for place in range(STEPS)]
    estimates.append(reference.along_the_line())
    for one, other in combinations(estimates, 2):
        assert relative(one, other) > 1e-6
