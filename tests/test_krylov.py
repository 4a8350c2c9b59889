"""`krylov` against dense matrix functions, and how it spreads its products."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, OptionError, Params, create
from estimators.base.tree import norm
from estimators.hvp import count_hvps
from estimators.krylov import Krylov
from estimators.methods.lanczos import lanczos_steps
from tests.support.cases import EXACT, assert_estimate, elementwise, every_case, oracle
from tests.support.oracle import Oracle, flatten, relative_error


def frozen_steps(hessian: Tensor, vector: Tensor, steps: int, order: int, alpha: float) -> Tensor:
    """Return f(H) v on the space of v, H v, ..., with a Nystrom approximation of H, densely."""
    columns = [vector]
    for _ in range(order):
        columns.append(hessian @ columns[-1])
    space, triangle = np.linalg.qr(torch.stack(columns, 1).numpy())
    kept = np.abs(np.diag(triangle)) > 1e-9 * np.abs(triangle).max()
    if not kept.all():  # the space is exhausted: H maps it to itself
        space = space[:, : int(kept.argmin())]
        small = space.T @ hessian.numpy() @ space
    else:
        known = space[:, :order]
        small = space.T @ hessian.numpy() @ space
        values, vectors = np.linalg.eigh(known.T @ hessian.numpy() @ known)
        large = values > 1e-2 * np.abs(values).max()
        inverse = (vectors[:, large] / values[large]) @ vectors[:, large].T
        coupling = small[:order, order]
        small[order, order] = coupling @ inverse @ coupling
    values, vectors = np.linalg.eigh(small)
    shrunk = np.where(alpha * values > 2, 1.0, alpha * values)
    result = space @ (vectors @ ((1 - shrunk) ** steps * (vectors.T @ (space.T @ vector.numpy()))))
    return torch.from_numpy(result)


def expected(reference: Oracle, spread: list[tuple[int, int, int]]) -> Tensor:
    """Return the estimate that the formula gives, with dense Hessians at mean iterates."""
    vector = reference.outer_gradient
    for start, stop, order in reversed(spread):
        mean = torch.stack(reference.iterates[start:stop]).mean(0)
        hessian = reference.hessian(mean)
        if stop - start == 1:
            vector = vector - reference.step_size * hessian @ vector
        else:
            vector = frozen_steps(hessian, vector, stop - start, order, reference.step_size)
    return vector


@every_case
@pytest.mark.parametrize(
    ("spec", "spread"),
    [
        ("krylov(products=1)", [(0, 7, 1)]),
        ("krylov(products=3)", [(0, 2, 1), (2, 5, 1), (5, 7, 1)]),
        ("krylov(products=4, segments=2)", [(0, 4, 2), (4, 7, 2)]),
        ("krylov(products=5, segments=2)", [(0, 4, 3), (4, 7, 2)]),
        ("krylov(products=6, segments=2)", [(0, 4, 3), *((k, k + 1, 1) for k in (4, 5, 6))]),
    ],
)
def test_estimate_is_the_formula_with_dense_hessians(
    name: str, spec: str, spread: list[tuple[int, int, int]]
) -> None:
    assert_estimate(spec, name, 7, expected(oracle(name, 7), spread), tolerance=1e-8)


@every_case
def test_as_many_products_as_steps_are_exact(name: str) -> None:
    exact = oracle(name, 6).exact()
    for spec in ("krylov(products=6)", "krylov(products=6, segments=3)"):
        assert_estimate(spec, name, 6, exact, tolerance=EXACT)


def quadratic(eigenvalues: list[float]) -> tuple[BilevelProblem, Params, Tensor]:
    """Return a problem with a constant Hessian, theta, and the exact meta-gradient."""
    generator = torch.Generator().manual_seed(1)
    size = len(eigenvalues)
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator).double())
    hessian = rotation @ torch.diag(torch.tensor(eigenvalues).double()) @ rotation.T

    def inner(params: Params) -> Tensor:
        return 0.5 * torch.dot(params["w"], hessian @ params["w"])

    def outer(params: Params) -> Tensor:
        return (params["w"] - 1).square().sum()

    theta = {"w": torch.randn(size, generator=generator).double()}
    problem = BilevelProblem(inner, outer, step_size=0.1, steps=30)
    return problem, theta, create("maml")(problem, theta).gradient["w"]


def test_space_that_is_exhausted_is_exact_and_ends_early() -> None:
    problem, theta, exact = quadratic([1.0] * 20 + [3.0] * 10 + [-0.1] * 10)
    with count_hvps() as counter:
        result = create("krylov(products=8, segments=1)")(problem, theta)
    assert relative_error(result.gradient, exact) < 1e-10
    assert result.hvps == counter.products < 6  # three eigenvalues; one more for rounding at most


def test_error_falls_with_the_order() -> None:
    problem, theta, exact = quadratic(torch.linspace(0, 9, 60).tolist())
    errors = [
        relative_error(create("krylov", products=order, segments=1)(problem, theta).gradient, exact)
        for order in (1, 2, 4, 8, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * errors[0]


def test_curvature_beyond_convergence_does_not_blow_up() -> None:
    problem, theta, _ = quadratic([0.5, 1.0, 2.0, 70.0])
    g = create("fomaml")(problem, theta)
    estimate = create("krylov(products=2)")(problem, theta).gradient
    assert norm(estimate) < 10 * norm(g.gradient)


def test_vectors_that_vanish_or_are_not_finite_are_returned() -> None:
    zero, taken = lanczos_steps(lambda v, _: 2 * v, torch.zeros(3), steps=3, order=2, alpha=0.1)
    assert taken == 0
    assert not zero.any()
    bad, _ = lanczos_steps(lambda v, _: math.nan * v, torch.ones(3), steps=3, order=2, alpha=0.1)
    assert bad.isnan().all()


@pytest.mark.parametrize("steps", [1, 5, 7, 10, 20, 50, 1000])
def test_products_are_spread_over_all_steps(steps: int) -> None:
    for products in range(1, min(steps, 30) + 1):
        for segments in (None, *range(1, products + 1)):
            estimator = Krylov(products=products, segments=segments)
            parts = estimator.spread(steps)
            assert sum(part.order for part in parts) == products
            assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
            assert parts[-1].stop == steps
            assert all(part.order <= part.steps for part in parts)
            assert estimator.cost(steps).hvps == estimator.cost(steps).serial_depth == products


@pytest.mark.parametrize(
    "options",
    [
        {"products": 0},
        {"products": 2, "segments": 0},
        {"products": 2, "segments": 3},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="krylov: "):
        create("krylov", **options)


def test_more_products_than_steps_are_refused() -> None:
    assert create("krylov(products=4)").unsupported_reason(4) is None
    assert create("krylov(products=5)").unsupported_reason(4)


@pytest.mark.parametrize("spec", ["krylov(products=3)", "krylov(products=4, segments=2)"])
def test_arithmetic_is_not_that_of_the_callers_settings(spec: str) -> None:
    problem, theta = elementwise(torch.float32)
    expected = flatten(create(spec)(problem, theta).gradient)
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        gradient = create(spec)(problem, theta).gradient
    assert gradient["w"].dtype == torch.float32
    assert relative_error(gradient, expected) < 1e-6


@pytest.mark.parametrize("scale", [1e-26, 1e20])
def test_estimate_is_linear_in_the_outer_loss(scale: float) -> None:
    spec = "krylov(products=4, segments=2)"
    expected = flatten(create(spec)(*elementwise(torch.float32)).gradient)
    gradient = create(spec)(*elementwise(torch.float32, scale)).gradient
    assert relative_error(gradient, scale * expected.double()) < 1e-5


@pytest.mark.parametrize("spec", ["krylov(products=4)", "krylov(products=4, segments=1)"])
def test_bases_are_not_of_half_precision(spec: str) -> None:
    expected = flatten(create(spec)(*elementwise(torch.float64)).gradient)
    result = create(spec)(*elementwise(torch.bfloat16))
    assert result.gradient["w"].dtype == torch.bfloat16
    assert result.hvps == 4
    assert relative_error(result.gradient, expected) < 0.05
