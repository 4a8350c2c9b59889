"""The largest curvature against eigenvalues of dense Hessians, and bounds against real errors."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.functional import hessian

from estimators import BilevelProblem, OptionError, Params, create, module_problem, trainable
from estimators.base.differentiation import Loss
from estimators.base.tree import dot
from estimators.hvp import count_hvps
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.models.mlp import Mlp
from harness.probes.bias import error_bound, outer_gradient, relative_error
from harness.probes.curvature import extreme_eigenpair, largest_curvature
from harness.tasks import TASKS

EXACT = 1e-3  # the residual allowed is 1 %, and the error mostly its square


def problem_of(task: str, model: str, depth: int, index: int) -> tuple[BilevelProblem, Params]:
    cell = Cell.of(estimator="fomaml", task=task, model=model, depth=depth)
    return bilevel_problem(cell, index, dtype=torch.float64, device="cpu")


def eigenvalues(loss: Loss, params: Params) -> NDArray[np.float64]:
    """Of the dense Hessian, rising."""
    names, shapes = list(params), [value.shape for value in params.values()]
    sizes = [value.numel() for value in params.values()]

    def flat(vector: Tensor) -> Tensor:
        parts = torch.split(vector, sizes)
        return loss({n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)})

    point = torch.cat([value.detach().reshape(-1) for value in params.values()])
    dense: Tensor = hessian(flat, point)  # type: ignore[no-untyped-call]
    return np.asarray(np.linalg.eigvalsh(dense.numpy()))


def along(problem: BilevelProblem, params: Params) -> list[float]:
    """alpha |lambda|_max at phi_0, ..., phi_{K-1}; at theta if K = 0."""
    points = list(problem.trajectory(params))[: problem.steps or 1]
    return [problem.alpha * np.abs(eigenvalues(problem.inner_loss, p)).max() for p in points]


def regression(init: str, depth: int, index: int) -> tuple[BilevelProblem, Params]:
    """A sinusoid for a ReLU network that is small enough for a dense Hessian."""
    family = TASKS.create("sinusoid")
    module = Mlp(hidden=(8, 8), init=init).build(family, seed=index).double()
    task = family.sample(seed=index)
    problem = module_problem(
        module, family.loss, task.support, task.query, step_size=0.01, steps=depth
    )
    return problem, trainable(module)


def test_largest_curvature_is_that_of_dense_hessians() -> None:
    for of_number in (
        partial(problem_of, "quadratic", "linear", 3),
        partial(problem_of, "quadratic(dimension=1)", "linear", 4),
        partial(problem_of, "quadratic(dimension=2)", "linear", 3),
        partial(problem_of, "quadratic(dimension=5, drift=3.0)", "linear", 3),
        partial(problem_of, "quadratic(drift=1.0)", "linear", 0),
        partial(regression, "torch", 3),
        partial(regression, "torch", 0),
        partial(regression, "maml", 2),
    ):
        for index in range(3):
            problem, params = of_number(index)
            expected = max(along(problem, params))
            assert expected > 0
            found = largest_curvature(problem, params)
            assert found == pytest.approx(expected, rel=EXACT), of_number
            assert found <= expected * (1 + 1e-12), of_number


def test_curvature_is_taken_where_it_is_largest_of_first_middle_and_last() -> None:
    # The curvature of w^4 falls along the descent, that of a double well's slope rises.
    theta = {"w": torch.tensor([0.5, 0.4], dtype=torch.float64)}

    def bowl(params: Params) -> Tensor:
        return (params["w"] ** 4).sum()

    def hill(params: Params) -> Tensor:
        return torch.cosh(2 * params["w"]).neg().sum() / 20

    for loss, at in ((bowl, 0), (hill, 8)):
        problem = BilevelProblem(loss, loss, step_size=0.1, steps=9)
        every = along(problem, theta)
        assert int(np.argmax(every)) == at
        assert largest_curvature(problem, theta) == pytest.approx(every[at], rel=EXACT)


def test_negative_curvature_counts_by_its_magnitude() -> None:
    scale = torch.tensor([1.0, -5.0, 3.0, 0.5], dtype=torch.float64)

    def saddle(params: Params) -> Tensor:
        return 0.5 * (scale * params["w"] ** 2).sum()

    problem = BilevelProblem(saddle, saddle, step_size=0.1, steps=4)
    theta = {"w": torch.ones(4, dtype=torch.float64)}
    assert largest_curvature(problem, theta) == pytest.approx(0.5, rel=EXACT)
    assert extreme_eigenpair(torch.diag(scale).mv, theta["w"])[0] == pytest.approx(-5, rel=EXACT)


def linear(params: Params) -> Tensor:
    return params["w"].sum()


def nothing_curved(params: Params) -> Tensor:
    return torch.relu(params["w"] - 100).square().sum()  # differentiable, and 0 all around


def test_curvature_of_zero_and_one_that_is_not_finite() -> None:
    for loss, depth in product((linear, nothing_curved), (0, 3)):
        flat = BilevelProblem(loss, loss, step_size=0.1, steps=depth)
        assert largest_curvature(flat, {"w": torch.ones(5, dtype=torch.float64)}) == 0
    problem, params = problem_of("quadratic(drift=10)", "linear", 30, 0)
    wild = BilevelProblem(problem.inner_loss, problem.outer_loss, step_size=5.0, steps=30)
    assert largest_curvature(wild, params) == math.inf


def test_curvature_wants_one_step_size() -> None:
    problem = BilevelProblem(linear, linear, step_size=0.1, steps=2, momentum=0.5)
    with pytest.raises(OptionError, match="plain gradient descent"):
        largest_curvature(problem, {"w": torch.ones(2)})


def test_curvature_repeats_to_the_bit_and_its_cost_does_not_grow_with_depth() -> None:
    counts = []
    for depth in (3, 12):
        problem, params = problem_of("sinusoid", "mlp-40-40(init='torch')", depth, 0)
        with count_hvps() as counter:
            first = largest_curvature(problem, params)
        counts.append(counter.products)
        assert largest_curvature(problem, params) == first
    assert max(counts) <= 40


def test_eigenvectors_are_unit_vectors_and_degenerate_spectra_are_found() -> None:
    rng = np.random.default_rng(0)
    for spectrum in ([2.0] * 30, [3.0, 3.0, *[1.0] * 60], [-2.0, 2.0, *np.linspace(-1, 1, 80)]):
        basis, _ = np.linalg.qr(rng.standard_normal((len(spectrum), len(spectrum))))
        matrix = torch.from_numpy(basis * np.array(spectrum) @ basis.T)
        start = torch.from_numpy(rng.standard_normal(len(spectrum)))
        value, vector = extreme_eigenpair(matrix.mv, start)
        assert abs(value) == pytest.approx(max(np.abs(spectrum)), rel=EXACT)
        assert float(vector.norm()) == pytest.approx(1, rel=1e-9)
        assert float((matrix @ vector - value * vector).norm()) <= 0.0101 * abs(value)


def test_an_eigenvalue_that_the_start_knows_nothing_of_is_missed_from_below() -> None:
    rng = np.random.default_rng(0)
    spectrum = np.array([1.5, -1.2, *rng.uniform(-1, 1, 60)])
    basis, _ = np.linalg.qr(rng.standard_normal((62, 62)))
    matrix = torch.from_numpy(basis * spectrum @ basis.T)
    weights = rng.standard_normal(62)
    for along_largest, expected in ((1.0, 1.5), (0.0, -1.2)):
        weights[0] = along_largest
        value, vector = extreme_eigenpair(matrix.mv, torch.from_numpy(basis @ weights))
        assert value == pytest.approx(expected, rel=EXACT)
        assert float((matrix @ vector - value * vector).norm()) <= 0.0101 * abs(value)
    for _ in range(50):
        value, _ = extreme_eigenpair(matrix.mv, torch.from_numpy(rng.standard_normal(62)))
        assert np.abs(spectrum - value).min() <= 0.01 * abs(value)
        assert abs(value) <= 1.5 * (1 + 1e-12)


def test_bounds_by_hand() -> None:
    bounds = {
        "fomaml": 1.1**5 - 1,
        "truncated(order=2)": 1.1**5 - 1.1**2,
        "binom(order=2)": 10 * 0.001 + 5 * 0.0001 + 0.00001,
        "hybrid(order=2, window=3)": 1.1**5 - 1.1**3 + 0.001,
        "truncated(order=5)": 0,
    }
    unbounded = ["maml", "adjoint", "imaml", "reptile", "binom-released(order=2)"]
    unbounded.append("binom-chebyshev(order=2)")
    for name in (*bounds, *unbounded):
        cell = Cell.of(estimator=name, task="sinusoid", model="mlp-40-40", depth=5)
        pair = [error_bound(cell, create(name), curvature) for curvature in (0.1, math.inf)]
        if name in bounds:
            assert pair == [pytest.approx(bounds[name], rel=1e-9, abs=1e-15), math.inf], name
        else:
            assert pair == [None, None], name


BOUNDED = ["fomaml", "truncated(order=2)", "binom(order=1)", "binom(order=3)"]
BOUNDED += ["hybrid(order=1, window=3)"]


def error_and_bound(
    estimator: str, problem: BilevelProblem, params: Params, cell: Cell
) -> tuple[float, float]:
    """||estimate - exact|| / ||exact||, and its bound in the same unit."""
    exact = create("adjoint")(problem, params).gradient
    result = create(estimator)(problem, params)
    bound = error_bound(cell, create(estimator), largest_curvature(problem, params))
    assert bound is not None
    g = outer_gradient(problem, result.adapted)
    return relative_error(result.gradient, exact), bound * math.sqrt(dot(g, g) / dot(exact, exact))


def test_errors_on_convex_tasks_stay_below_their_bounds() -> None:
    for name, drift, step_size in product(BOUNDED, (0.0, 1.0), (0.005, 0.02, 0.08)):
        parts = {"estimator": name, "task": f"quadratic(drift={drift})", "model": "linear"}
        cell = Cell.of(**parts, depth=5, step_size=step_size)
        for index in range(4):
            problem, params = bilevel_problem(cell, index, dtype=torch.float64, device="cpu")
            error, bound = error_and_bound(name, problem, params, cell)
            assert 0 < error <= bound, cell.id


def test_the_most_negative_curvature_attains_the_bounds() -> None:
    def hill(params: Params) -> Tensor:
        return -0.5 * curvature * (params["w"] ** 2).sum()

    for name, curvature in product(BOUNDED, (0.5, 10.0)):
        cell = Cell.of(estimator=name, task="quadratic", model="linear", depth=5, step_size=0.1)
        problem = BilevelProblem(hill, lambda params: params["w"].sum(), step_size=0.1, steps=5)
        theta = {"w": torch.arange(1.0, 8.0, dtype=torch.float64)}
        error, bound = error_and_bound(name, problem, theta, cell)
        assert error == pytest.approx(bound, rel=1e-6), (name, curvature)
