"""`binom-chebyshev` against literal sums, its weights against another solver."""

import warnings
from itertools import combinations
from math import prod

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from estimators import BilevelProblem, Params, create
from estimators.base.tree import norm
from estimators.methods.chebyshev import chebyshev_error, chebyshev_weights
from tests.support.cases import assert_estimate, elementwise, every_case, oracle
from tests.support.oracle import Oracle, flatten, relative_error

STEPS = 6


def met_curvature(reference: Oracle, order: int) -> list[float]:
    """Return max ||H_k v|| / ||v|| of the vectors that the sums multiply by H_k."""
    met = [0.0] * reference.steps
    alpha = reference.step_size
    for k in range(reference.steps):
        for size in range(min(order, reference.steps - k)):
            vector = torch.zeros_like(reference.outer_gradient)
            for subset in combinations(range(k + 1, reference.steps), size):
                term = reference.outer_gradient
                for index in reversed(subset):
                    term = -alpha * reference.hessians[index] @ term
                vector = vector + term
            met[k] = max(met[k], float((reference.hessians[k] @ vector).norm() / vector.norm()))
    first = max(reference.steps - order, 0)
    return [max(one, met[first]) if k >= first else one for k, one in enumerate(met)]


def literal_weights(profile: list[float], order: int) -> np.ndarray:
    """Solve the same least squares from the definition, term by term."""
    nodes = (1 + np.cos((np.arange(64) + 0.5) * np.pi / 64)) / 2
    columns = [
        sum(
            (-nodes) ** size * prod(profile[k] for k in subset)
            for subset in combinations(range(len(profile)), size)
        )
        for size in range(1, order + 1)
    ]
    right = np.prod([1 - size * nodes for size in profile], axis=0) - 1
    solution, *_ = np.linalg.lstsq(np.stack(columns, 1), right, rcond=None)
    return np.asarray(solution)


@every_case
@pytest.mark.parametrize("order", [1, 2, 3])
def test_estimate_is_the_weighted_sum_with_dense_hessians(name: str, order: int) -> None:
    reference = oracle(name, STEPS)
    profile = [1.1 * reference.step_size * one for one in met_curvature(reference, order)]
    weights = literal_weights(profile, order)
    total = reference.outer_gradient
    for size, weight in enumerate(weights, 1):
        total = total + weight * (-reference.step_size) ** size * reference.subset_sum(size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no order is left out here
        assert_estimate(f"binom-chebyshev(order={order})", name, STEPS, total, tolerance=1e-8)


@every_case
def test_limits_are_fomaml_and_maml(name: str) -> None:
    reference = oracle(name, 4)
    assert_estimate("binom-chebyshev(order=0)", name, 4, reference.outer_gradient)
    assert_estimate("binom-chebyshev(order=4)", name, 4, reference.exact(), tolerance=1e-9)


@pytest.mark.parametrize("size", [0.1, 0.6, 1.2])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_weights_are_near_the_best_polynomial(size: float, order: int) -> None:
    profile = [size] * 8
    nodes = np.linspace(0, 1, 400)
    columns = np.stack(
        [
            sum((-nodes * size) ** n for _ in combinations(range(8), n)) + 0 * nodes
            for n in range(1, order + 1)
        ],
        1,
    )
    right = (1 - size * nodes) ** 8 - 1
    ones = np.ones((len(nodes), 1))
    best = linprog(  # least largest error
        [*[0.0] * order, 1.0],
        A_ub=np.block([[columns, -ones], [-columns, -ones]]),
        b_ub=np.concatenate([right, -right]),
        bounds=[(None, None)] * order + [(0, None)],
    )
    assert chebyshev_error(profile, chebyshev_weights(profile, order)) < 2.5 * best.fun + 1e-12


def quadratic(largest: float, depth: int) -> tuple[BilevelProblem, Params]:
    """Return a problem of constant curvature from 0 to some largest one."""
    curvature = torch.linspace(0, largest, 50).double()

    def inner(params: Params) -> Tensor:
        return 0.5 * (curvature * params["w"].square()).sum()

    def outer(params: Params) -> Tensor:
        return (params["w"] - 1).sum()

    theta = {"w": torch.ones(50).double()}
    return BilevelProblem(inner, outer, step_size=0.1, steps=depth), theta


@pytest.mark.parametrize("depth", [5, 20, 50])
@pytest.mark.parametrize("order", [2, 4, 8])
def test_error_is_below_the_largest_of_the_polynomial(depth: int, order: int) -> None:
    if order >= depth:
        pytest.skip("exact")
    problem, theta = quadratic(6.0, depth)
    exact = create("maml")(problem, theta).gradient
    estimate = create("binom-chebyshev", order=order)(problem, theta).gradient
    difference = norm({"w": estimate["w"] - exact["w"]})
    taken = create("fomaml")(problem, theta).gradient
    # The products meet nearly the whole range, so that weights are those for a slightly larger one.
    profiles = [[0.6 * margin] * depth for margin in (0.9, 1.0, 1.1)]
    bound = max(
        chebyshev_error([0.6] * depth, chebyshev_weights(profile, order)) for profile in profiles
    )
    assert difference <= 1.5 * bound * norm(taken)


def test_curvature_that_the_products_do_not_meet_is_told() -> None:
    def inner(params: Params) -> Tensor:  # steep where the outer gradient hardly points
        return 0.5 * (params["a"].square().sum() + 18.0 * params["b"].square().sum())

    def outer(params: Params) -> Tensor:
        return params["a"].sum() + 1e-3 * params["b"].sum()

    theta = {"a": torch.ones(3).double(), "b": torch.ones(3).double()}
    problem = BilevelProblem(inner, outer, step_size=0.1, steps=30)
    g = create("fomaml")(problem, theta).gradient
    exact = create("maml")(problem, theta).gradient
    with pytest.warns(UserWarning, match="binom-chebyshev: "):
        estimate = create("binom-chebyshev(order=4)")(problem, theta).gradient
    flat = torch.cat([exact["a"], exact["b"]])
    assert relative_error(estimate, flat) < relative_error(g, flat)


def test_arithmetic_is_not_that_of_the_callers_settings() -> None:
    problem, theta = elementwise(torch.float32)
    estimator = create("binom-chebyshev(order=3)")
    expected = flatten(estimator(problem, theta).gradient)
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        gradient = estimator(problem, theta).gradient
    assert gradient["w"].dtype == torch.float32
    assert relative_error(gradient, expected) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e20])
@pytest.mark.parametrize("order", [1, 3])
def test_estimate_is_linear_in_the_outer_loss(order: int, scale: float) -> None:
    estimator = create("binom-chebyshev", order=order)
    expected = flatten(estimator(*elementwise(torch.float32)).gradient)
    gradient = estimator(*elementwise(torch.float32, scale)).gradient
    assert relative_error(gradient, scale * expected.double()) < 1e-5


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 1e-4, 1e-2])
def test_weights_are_those_of_eq_8_where_these_do(size: float) -> None:
    for steps, order in ((20, 4), (100, 12), (200, 24)):
        weights = chebyshev_weights([size] * steps, order)
        assert chebyshev_error([size] * steps, weights) <= max(
            chebyshev_error([size] * steps, torch.ones(order).double()), 1e-12
        )
        assert weights.abs().max() < 10


def test_curvature_beyond_all_numbers_is_no_error_of_linear_algebra() -> None:
    def inner(params: Params) -> Tensor:
        return 0.5e200 * params["w"].square().sum()

    theta = {"w": torch.ones(3).double()}
    problem = BilevelProblem(inner, lambda params: params["w"].sum(), 1e-210, 6)
    gradient = create("binom-chebyshev(order=2)")(problem, theta).gradient
    assert relative_error(gradient, torch.ones(3)) < 1e-6


@pytest.mark.parametrize(("depth", "order"), [(100, 12), (200, 16)])
def test_sums_that_cancel_in_single_precision_are_left_out(depth: int, order: int) -> None:
    curvature = torch.linspace(0, 10, 50)

    def inner(params: Params) -> Tensor:
        return 0.5 * (curvature * params["w"].square()).sum()

    def outer(params: Params) -> Tensor:
        return (params["w"] - 1).sum()

    theta = {"w": torch.ones(50)}
    problem = BilevelProblem(inner, outer, step_size=0.1, steps=depth)
    exact = create("adjoint")(problem, theta).gradient["w"]
    with pytest.warns(UserWarning, match="binom-chebyshev: "):
        estimate = create("binom-chebyshev", order=order)(problem, theta).gradient
    g = create("fomaml")(problem, theta).gradient
    assert relative_error(estimate, exact) < 0.5 * relative_error(g, exact)
