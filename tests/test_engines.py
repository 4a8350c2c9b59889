"""Hessian-vector products, one or many at a time, against dense Hessians, in float64."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from estimators import BilevelProblem, OptionError, Params, create
from estimators.base.differentiation import summed
from estimators.base.tree import stack, unstack
from estimators.hvp import ENGINES, Hessian, count_hvps, hessian_at, hvp, inner_map
from estimators.methods import cascade, options
from estimators.methods.options import Default, measured_default
from harness.conformance.cases import case
from tests.support.cases import NAMES, assert_estimate, estimate, oracle
from tests.support.oracle import Loss, flatten, relative_error, unflatten

TOLERANCE = dict.fromkeys(ENGINES, 1e-10) | {"finite-difference": 1e-5}
# Forward mode does not know the backward of `mse_loss`, which is the loss of "mlp".
PAIRS = [(e, name) for e in ENGINES for name in NAMES if (e, name) != ("forward", "mlp")]
BATCHINGS = ["loop", "vmap", "chunk(2)", "chunk(3)", "streams"]
DEPTH = 5

every_pair = pytest.mark.parametrize(("engine", "name"), PAIRS)


def vectors(name: str, count: int) -> list[Params]:
    like = case(name).params
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(count, len(flatten(like)), generator=generator, dtype=torch.float64)
    return [unflatten(draw, like) for draw in draws]


def points(name: str) -> list[Params]:
    return [unflatten(phi, case(name).params) for phi in oracle(name, DEPTH).iterates[:-1]]


@every_pair
def test_product_is_that_of_the_dense_hessian(engine: str, name: str) -> None:
    example, several = case(name), vectors(name, 3)
    for point, dense in zip(points(name), oracle(name, DEPTH).hessians, strict=True):
        hessian = hessian_at(example.inner_loss, point, engine=engine)
        for vector in several:  # which do not disturb each other
            product = hessian.product(vector, last=vector is several[-1])
            assert relative_error(product, dense @ flatten(vector)) < TOLERANCE[engine]
            assert {key: value.shape for key, value in product.items()} == {
                key: value.shape for key, value in example.params.items()
            }
            assert not any(value.requires_grad for value in (*product.values(), *point.values()))
    for length in (0.0, 1e-8, 1e8):
        long = {key: length * value for key, value in several[0].items()}
        product = hvp(example.inner_loss, point, long, engine=engine)
        expected = length * dense @ flatten(several[0])
        assert relative_error(product, expected) < TOLERANCE[engine] * bool(length) + 1e-300


@every_pair
def test_stacked_points_are_multiplied_and_counted_one_by_one(engine: str, name: str) -> None:
    three, several = points(name)[:3], vectors(name, 3)
    loss = summed(case(name).inner_loss)
    with count_hvps() as counter:
        hessian = hessian_at(loss, stack(three), engine=engine, points=3)
        products = unstack(hessian.product(stack(several), last=False))
        hessian.product(stack(several), last=True)
    assert counter.products == 6
    for product, dense, vector in zip(
        products, oracle(name, DEPTH).hessians[:3], several, strict=True
    ):
        assert relative_error(product, dense @ flatten(vector)) < TOLERANCE[engine]


def test_summed_loss_is_called_and_not_written_out_which_takes_milliseconds() -> None:
    class Square:
        def __call__(self, params: Params) -> torch.Tensor:
            return params["w"].square().sum()

        def __repr__(self) -> str:
            raise AssertionError("it was written out")

    points = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 0.0])}]
    assert int(summed(Square())(stack(points))) == 14


def test_inner_count_does_not_reach_the_outer_one() -> None:
    example, (vector,) = case("quartic"), vectors("quartic", 1)
    for engine in ENGINES:
        with count_hvps() as outer:
            hvp(example.inner_loss, example.params, vector, engine=engine)
            with count_hvps() as inner:
                hvp(example.inner_loss, example.params, vector, engine=engine)
            hvp(example.inner_loss, example.params, vector, engine=engine)
        assert (outer.products, inner.products) == (2, 1), engine


@every_pair
def test_estimators_take_every_engine(engine: str, name: str) -> None:
    lam, reference = case(name).lam, oracle(name, 3)
    end = reference.proximal_descent(lam)
    mean = torch.stack([oracle(name, j).exact() for j in (1, 2, 3)]).mean(0)
    expected = {
        f"neumann(terms=3, lam={lam}, engine={engine!r})": reference.neumann(end, lam, 3),
        f"mixed(engine={engine!r})": mean,
        f"adjoint(engine={engine!r})": reference.exact(),
        f"adjoint(engine={engine!r}, checkpoint='sqrt')": reference.exact(),
        f"drmad(engine={engine!r})": reference.along_the_line(),
        f"lazy(engine={engine!r}, beta=0.1)": reference.leap(1.0, 0.1, place=1)[1],
        f"imaml(cg_steps=2, lam={lam}, engine={engine!r})": (
            reference.implicit_in_krylov_space(end, lam, 2)
        ),
    }
    for spec, gradient in expected.items():
        result = estimate(spec, name, 3)
        assert relative_error(result.gradient, gradient) < max(1e-8, TOLERANCE[engine]), spec


@every_pair
def test_batched_cascades_are_the_sums_over_subsets(engine: str, name: str) -> None:
    reference = oracle(name, DEPTH)
    expected = {
        "binom(order=1)": reference.binomial(1),
        "binom(order=2)": reference.binomial(2),
        "hybrid(order=2, window=4)": reference.binomial(2, window=4),
        "binom-released(order=3)": reference.binomial(3, scale=reference.step_size * 3 / DEPTH),
    }
    for batching in BATCHINGS:
        for spec, gradient in expected.items():
            how = f", engine={engine!r}, batching={batching!r})"
            assert_estimate(spec[:-1] + how, name, DEPTH, gradient, TOLERANCE[engine])


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("steps", range(6))
def test_batched_cascades_take_the_products_of_the_formulas(batching: str, steps: int) -> None:
    reference = oracle("quartic", steps)
    for order in range(steps + 1):
        for name, window, scale in (
            ("binom", steps, reference.step_size),
            ("binom-released", steps, reference.step_size * order / (steps or 1)),
            ("hybrid", (steps + order) // 2, reference.step_size),
        ):
            only = f"window={window}, " if name == "hybrid" else ""
            spec = f"{name}(order={order}, {only}batching={batching!r})"
            with count_hvps() as counter:
                result = estimate(spec, "quartic", steps)
            products = order * (window - order + 1)
            assert (counter.products, result.hvps) == (products, products), spec
            assert result.serial_depth == order
            gradient = reference.binomial(order, window, scale)
            assert relative_error(result.gradient, gradient) < 1e-10, spec


def problem_of(error: Callable[[Tensor, Tensor], Tensor]) -> BilevelProblem:
    def loss(params: Params) -> Tensor:
        return error(params["w"].tanh(), torch.ones(3))

    return BilevelProblem(loss, loss, 0.1, 2)


def test_forward_mode_names_what_it_cannot_do() -> None:
    errors: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mse_?loss": functional.mse_loss,
        "huber_?loss": functional.huber_loss,
        "soft_?margin_?loss": functional.soft_margin_loss,
    }
    for operation, error in errors.items():
        message = f"(?i)engine='forward': .*{operation}.* engine='reverse'"
        with pytest.raises(OptionError, match=message):
            create("adjoint(engine='forward')")(problem_of(error), {"w": torch.ones(3)})


def test_estimators_take_the_engine_that_they_are_given() -> None:
    problem = problem_of(functional.huber_loss)
    for spec in (
        "adjoint",
        "binom(order=1, batching='loop')",
        "binom-chebyshev(order=1)",
        "binom-released(order=1, batching='loop')",
        "hybrid(order=1, window=1, batching='loop')",
        "drmad",
        "imaml(lam=1.0)",
        "imaml(lam=1.0, solver='nystrom')",
        "lazy",
        "mixed",
        "neumann(terms=1, lam=1.0)",
    ):
        create(spec)(problem, {"w": torch.ones(3)})
        with pytest.raises(OptionError, match="engine='forward'"):
            create(spec, engine="forward")(problem, {"w": torch.ones(3)})


def test_unknown_engines_and_batchings_are_refused() -> None:
    for spec in ("adjoint", "binom(order=1)", "mixed", "imaml", "neumann(terms=1)"):
        for engine in ("", "backward", "Reverse"):
            with pytest.raises(OptionError, match="engine="):
                create(spec, engine=engine)
    for spec in ("binom(order=1)", "binom-released(order=1)"):
        for batching in ("", "map", "chunk", "chunk()", "chunk(0)", "chunk(-1)", "streams(2)"):
            with pytest.raises(OptionError, match="batching="):
                create(spec, batching=batching)


SMALL = Default("func", "chunk(2)", from_width=4)
DENSE = Default("reverse", "vmap")
CONVOLUTIONAL = Default("finite-difference", "chunk(3)")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"cpu": {"small": SMALL, "dense": DENSE, "convolutional": CONVOLUTIONAL}}
    monkeypatch.setattr(options, "_table", lambda: table)


@pytest.mark.usefixtures("planted")
def test_auto_is_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def recorded(loss: Loss, params: Params, *, engine: str, points: int = 1) -> Hessian:
        calls.append((engine, points))
        return hessian_at(loss, params, engine=engine, points=points)

    for module in (cascade, inner_map):
        monkeypatch.setattr(module, "hessian_at", recorded)
    for name, spec, engine, points in (
        ("mlp", "binom(order=2)", "func", [2] * 4),
        ("mlp", "binom(order=1)", "func", [2, 2, 1]),
        ("mlp", "binom(order=3)", "func", [1] * 5),
        ("mlp", "hybrid(order=2, window=3)", "func", [1] * 3),
        ("mlp", "binom-released(order=1, batching='vmap')", "func", [5]),
        ("mlp", "binom(order=2, engine='reverse')", "reverse", [2] * 4),
        ("convolution", "binom(order=1)", "finite-difference", [3, 2]),
        ("convolution", "binom(order=4)", "finite-difference", [2] * 4),
        ("convolution", "binom(order=2)", "finite-difference", [3, 1, 3, 1]),
        ("convolution", "binom(order=2, batching='loop')", "finite-difference", [1] * 5),
    ):
        calls.clear()
        estimate(spec, name, DEPTH)
        assert calls == [(engine, count) for count in points], (name, spec)


def test_table_that_is_shipped_names_engines_and_batchings_that_exist() -> None:
    for rows in options._table().values():
        assert rows.keys() == {"small", "dense", "convolutional"}
        for row in rows.values():
            assert row.engine in ENGINES
            create("binom(order=1)", batching=row.batching)
            assert row.batching not in ("auto", "streams", "sharded")


@pytest.mark.usefixtures("planted")
def test_table_goes_by_kernels_and_size_and_has_no_row_for_some_devices() -> None:
    for device in ("cpu", "meta"):
        small = {"w": torch.zeros(99, 200, device=device), "b": torch.zeros(200, device=device)}
        for kernel in ((2, 2, 2), (2, 2, 2, 2)):
            params = {**small, "kernel": torch.zeros(kernel, device=device)}
            assert measured_default(params) == CONVOLUTIONAL
        assert measured_default(small) == SMALL
        assert measured_default({**small, "c": torch.zeros(1, device=device)}) == DENSE


def test_forward_mode_gives_no_warning_of_what_torch_does_within() -> None:
    # In a process of its own: torch loads its rules once.
    script = (
        "import torch; from estimators.hvp import hvp; "
        "point = {'w': torch.ones(2)}; "
        "hvp(lambda p: p['w'].sin().sum(), point, point, engine='forward')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
