"""Every estimator's result and counts against the dense reference, in float64."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, OptionError, Params, create
from harness.cell import Cell
from harness.conformance.cases import case
from harness.matrix.problems import bilevel_problem
from harness.probes.memory import peak_memory
from tests.support.cases import (
    EXACT,
    assert_estimate,
    estimate,
    every_case,
    kinked,
    oracle,
)
from tests.support.oracle import Descent, flatten, relative_error, unflatten

DEPTHS = range(7)


@every_case
def test_ordered_estimators_are_sums_and_products_of_the_reference(name: str) -> None:
    for steps in DEPTHS:
        reference = oracle(name, steps)
        for order in range(steps + 1):
            scale = case(name).step_size * order / (steps or 1)
            for spec, expected in (
                ("binom", reference.binomial(order)),
                ("binom-released", reference.binomial(order, scale=scale)),
                ("truncated", reference.truncated(order)),
            ):
                result = assert_estimate(f"{spec}(order={order})", name, steps, expected)
                assert relative_error(result.adapted, reference.iterates[-1]) < EXACT, spec


@every_case
def test_hybrid_is_the_sum_over_subsets_of_the_last_steps(name: str) -> None:
    for steps in range(6):
        reference = oracle(name, steps)
        for window in range(steps + 1):
            for order in range(window + 1):
                spec = f"hybrid(order={order}, window={window})"
                assert_estimate(spec, name, steps, reference.binomial(order, window))
                if window == steps:
                    assert_estimate(spec, name, steps, reference.binomial(order))
                if window == order:
                    assert_estimate(spec, name, steps, reference.truncated(order))


@every_case
def test_exact_and_first_order_estimators(name: str) -> None:
    for steps in range(11):
        reference = oracle(name, steps)
        exact = ["maml", "maml(checkpoint='sqrt')", "adjoint", "adjoint(checkpoint='sqrt')"]
        expansions = [f"truncated(order={steps})", f"binom(order={steps})"]
        for spec in (*exact, *expansions) if steps < 7 else exact:
            result = assert_estimate(spec, name, steps, reference.exact())
            assert relative_error(result.adapted, reference.iterates[-1]) < EXACT
        for spec in ("fomaml", "binom(order=0)", "truncated(order=0)"):
            assert_estimate(spec, name, steps, reference.outer_gradient)
        if steps:
            assert_estimate("reptile", name, steps, reference.reptile())


def test_checkpoints_rebuild_one_segment_after_another() -> None:
    example, reference = case("quartic"), oracle("quartic", 10)
    visited: list[int] = []

    def inner_loss(params: Params) -> torch.Tensor:
        distances = [relative_error(params, phi) for phi in reference.iterates]
        visited.append(distances.index(min(distances)))
        return example.inner_loss(params)

    problem = BilevelProblem(inner_loss, example.outer_loss, example.step_size, 10)
    backwards = [*range(9, -1, -1)]
    for spec, back in (
        ("maml", []),
        ("maml(checkpoint='sqrt')", [8, 9, 4, 5, 6, 7, 0, 1, 2, 3]),
        ("adjoint", backwards),
        ("adjoint(checkpoint='sqrt')", [8, 9, 8, 4, 5, 6, 7, 6, 5, 4, 0, 1, 2, 3, 2, 1, 0]),
    ):
        visited.clear()
        create(spec)(problem, example.params)
        assert visited == [*range(10), *back], spec


@every_case
def test_checkpoints_of_adjoint_change_no_bit(name: str) -> None:
    example = case(name)
    sizes = {key: torch.full_like(value, 0.05) for key, value in example.params.items()}
    for steps in (0, 1, 2, 3, 5, 9, 11):
        plain = example.problem(steps)
        for problem in (plain, replace(plain, step_size=sizes, momentum=0.5)):
            stored, rebuilt = (
                create("adjoint", checkpoint=checkpoint)(problem, example.params)
                for checkpoint in ("none", "sqrt")
            )
            for one, other in (
                (stored.gradient, rebuilt.gradient),
                (stored.adapted, rebuilt.adapted),
                (stored.step_size_gradient or {}, rebuilt.step_size_gradient or {}),
            ):
                assert all(torch.equal(one[key], other[key]) for key in one), steps


def test_memory_of_many_steps() -> None:
    example = case("mlp")
    problem = example.problem(400)
    iterate = sum(value.nbytes for value in example.params.values())
    specs = ("adjoint", "adjoint(checkpoint='sqrt')", "drmad", "lazy")
    everything, roots, *constant = (
        peak_memory(partial(create(spec), problem, example.params), "cpu") / iterate
        for spec in specs
    )
    assert everything > 400
    assert roots < 100
    assert max(constant) < 60


@every_case
def test_drmad_is_the_exact_product_along_a_straight_line(name: str) -> None:
    for steps in DEPTHS:
        reference = oracle(name, steps)
        result = assert_estimate("drmad", name, steps, reference.along_the_line())
        assert relative_error(result.adapted, reference.iterates[-1]) < EXACT
        if steps == 1:
            assert_estimate("drmad", name, steps, reference.exact())


PLACES: dict[str, Callable[[int], int]] = {
    "start": lambda steps: 0,
    "middle": lambda steps: steps // 2,
    "last": lambda steps: steps - 1,
}


@every_case
def test_lazy_differentiates_its_leap(name: str) -> None:
    alpha = case(name).step_size
    for steps, (at, place) in product(DEPTHS[1:], PLACES.items()):
        reference = oracle(name, steps)
        for gamma, beta in ((1.0, None), (1.0, 0.1), (0.5, 0.0), (1.5, None)):
            scale = gamma * steps * alpha if beta is None else beta
            end, expected = reference.leap(gamma, scale, place(steps))
            spec = f"lazy(gamma={gamma}, beta={beta}, at={at!r})"
            result = assert_estimate(spec, name, steps, expected)
            assert relative_error(result.adapted, end) < EXACT, spec
            assert result.hvps == (beta != 0), spec
    for spec in ("lazy", "lazy(beta=0.1)", "lazy(gamma=0.5, at='last')"):
        assert_estimate(spec, name, 0, oracle(name, 0).outer_gradient)


@every_case
def test_lazy_has_the_limits_that_it_claims(name: str) -> None:
    example, reference = case(name), oracle(name, 4)
    end, g = reference.leap(0.5, beta=0.0, place=0)
    leap = replace(example.problem(0), step_size=example.step_size)
    there = create("fomaml")(leap, unflatten(end, example.params))
    assert relative_error(there.gradient, g) < EXACT
    assert_estimate("lazy(gamma=0.5, beta=0.0)", name, 4, flatten(there.gradient))
    truncated = estimate("truncated(order=1)", name, 4)
    spec = f"lazy(beta={example.step_size}, at='last')"
    assert_estimate(spec, name, 4, flatten(truncated.gradient))


def test_lazy_is_binomial_where_the_hessian_is_constant() -> None:
    cell = Cell.of(estimator="lazy", task="quadratic", model="linear", depth=4)
    arguments = bilevel_problem(cell, 0, dtype=torch.float64, device="cpu")
    expected = flatten(create("binom(order=1)")(*arguments).gradient)
    for at in PLACES:
        assert relative_error(create("lazy", at=at)(*arguments).gradient, expected) < EXACT


@every_case
def test_lazy_knows_the_exact_gradient_of_a_leap_of_another_length(name: str) -> None:
    for steps in (0, 1, 4):
        problem, params = case(name).problem(steps), case(name).params
        assert create("lazy").own_exact_gradient(problem, params) is None
        own = create("lazy(gamma=0.5)").own_exact_gradient(problem, params)
        assert own is not None
        assert relative_error(own, oracle(name, steps).leap_exact(0.5)) < EXACT


@every_case
def test_hf_maml_is_nearly_exact_on_smooth_losses(name: str) -> None:
    for steps in DEPTHS:
        for dtype, tolerance in ((torch.float64, 5e-6), (torch.float32, 1e-2)):
            example = case(name, dtype)
            result = create("hf-maml")(example.problem(steps), example.params)
            error = relative_error(result.gradient, oracle(name, steps).exact())
            assert error < tolerance, (steps, dtype)


def test_hf_maml_steps_over_no_kinks() -> None:
    for seed in range(5):
        example = kinked(torch.float64, seed)
        exact = flatten(create("adjoint")(example.problem(3), example.params).gradient)
        for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-2)):
            example = kinked(dtype, seed)
            result = create("hf-maml")(example.problem(3), example.params)
            assert relative_error(result.gradient, exact) < tolerance, (seed, dtype)


def geometric(steps: int, ratio: float) -> list[float]:
    raw = [ratio ** (steps - j) for j in range(1, steps + 1)]
    return [weight / sum(raw) for weight in raw]


def plus_plus(steps: int, progress: float) -> list[float]:
    """Return the weights of MAML++ as they are printed."""
    early = max(1 / steps - progress / steps, 0.03 / steps)
    late = min(1 / steps + progress * (steps - 1) / steps, 1 - 0.03 * (steps - 1) / steps)
    return [*[early] * (steps - 1), late]


MEANS: dict[str, Callable[[int], list[float]]] = {
    "mixed": lambda steps: [1 / steps] * steps,
    "mixed(weights='geometric')": lambda steps: geometric(steps, 0.5),
    "mixed(weights='geometric', ratio=0.8)": lambda steps: geometric(steps, 0.8),
    "mixed(weights='maml++')": lambda steps: plus_plus(steps, 0.0),
    "mixed(weights='maml++', progress=0.6)": lambda steps: plus_plus(steps, 0.6),
    "mixed(weights='maml++', progress=1.0)": lambda steps: plus_plus(steps, 1.0),
}


@every_case
def test_mixed_is_the_weighted_mean_of_exact_gradients(name: str) -> None:
    for steps in DEPTHS[1:]:
        given = (0, 2, 0, 0.5, 0, 3)[-steps:]
        means = {spec: weights(steps) for spec, weights in MEANS.items()}
        means[f"mixed(weights={given})"] = [weight / sum(given) for weight in given]
        for spec, weights in means.items():
            assert sum(weights) == pytest.approx(1)
            exact = [weight * oracle(name, j).exact() for j, weight in enumerate(weights, start=1)]
            assert_estimate(spec, name, steps, torch.stack(exact).sum(0))
    for spec in MEANS:
        assert_estimate(spec, name, 0, oracle(name, 0).outer_gradient)


@every_case
def test_exact_estimators_of_another_objective_know_it(name: str) -> None:
    example = case(name)
    for spec in (*MEANS, "mixed(weights=(2, 0, 1, 3))", "anil"):
        for steps in (0, 1, 4):
            estimator = create(spec)
            if estimator.unsupported_reason(steps):  # weights for another depth
                continue
            own = estimator.own_exact_gradient(example.problem(steps), example.params)
            assert own is not None
            assert_estimate(spec, name, steps, flatten(own))


def test_nonsensical_options_are_refused() -> None:
    for spec, message in (
        ("mixed(weights='linear')", "'uniform', 'geometric'"),
        ("mixed(weights='maml++', progress=1.1)", "progress=1.1"),
        ("mixed(weights=(1, 0))", "last above 0"),
        ("mixed(weights=(-1, 1))", "0 or more"),
        ("mixed(weights=())", "must be numbers"),
        ("mixed(weights=('a', 'b'))", "must be numbers"),
        ("mixed(weights=(1, 2))", "2 weights were given for depth 3"),
        ("mixed(weights='geometric', ratio=1.0)", "between 0 and 1"),
        ("hybrid(order=2, window=1)", "order <= window <= K"),
        ("hybrid(order=-1, window=1)", "order=-1"),
        ("hybrid(order=1, window=4)", "more than the depth 3"),
        ("binom-released(order=4)", "outside 0..3"),
        ("binom(order=4)", "outside 0..3"),
        ("truncated(order=4)", "outside 0..3"),
        ("neumann(terms=-1)", "0 or more"),
        ("neumann(terms=1, lam=0.0)", "positive"),
        ("maml(checkpoint='log')", "none.*sqrt"),
        ("adjoint(checkpoint='log')", "none.*sqrt"),
        ("adjoint(checkpoint='sqrt', compiled=True)", "all iterates"),
        ("lazy(gamma=0)", "positive"),
        ("lazy(beta=-1)", "0 or more"),
        ("lazy(beta='1')", "must be a number"),
        ("lazy(at='end')", "'start', 'middle', 'last'"),
        ("mixed(weights=(1e308, 1e308, 1))", "must be numbers"),
        (f"mixed(weights=(1, 2, {10**400}))", "must be numbers"),
        ("contrastive(delta=0)", "positive"),
        ("contrastive(sides=3)", "neither 1 nor 2"),
        ("contrastive(lam=20.0)", "diverges"),
        ("imaml(solver='qr')", "cg.*nystrom"),
        ("imaml(rank=0)", "1 or more"),
        ("anil(head='crown')", "'crown'.*first, second"),
    ):
        with pytest.raises(OptionError, match=message):
            estimate(spec, "mlp", 3)


HEADS = {
    "quartic": [("anil", ["w"])],
    "mlp": [("anil", ["second"]), ("anil(head='first')", ["first"])],
    "convolution": [("anil", ["head"]), ("anil(head='scale')", ["scale"])],
    "linear": [("anil", ["w"])],
    "uneven": [("anil", ["inner"]), ("anil(head='both')", ["both"])],
}


@every_case
def test_anil_descends_and_differentiates_on_the_head_only(name: str) -> None:
    example = case(name)
    for spec, head in HEADS[name]:
        sizes = {
            key: torch.tensor(example.step_size if key in head else 0, dtype=torch.float64)
            for key in example.params
        }
        for steps in (0, 1, 2, 5):
            reference = Descent(oracle(name, steps), sizes)
            result = assert_estimate(spec, name, steps, reference.gradients[0])
            assert relative_error(result.adapted, reference.adapted) < EXACT, spec
            for key in example.params.keys() - set(head):
                assert torch.equal(result.adapted[key], example.params[key])


def test_head_of_anil_is_a_whole_module() -> None:
    names = ["net.40.weight", "net.4.weight", "net.0.weight", "net.4.bias"]

    def loss(params: Params) -> torch.Tensor:
        return torch.stack([params[key].exp() for key in names]).sum()

    params = {key: torch.ones(()) for key in names}
    for spec, adapted in (("anil", ["net.4.weight", "net.4.bias"]), ("anil(head='net')", names)):
        result = create(spec)(BilevelProblem(loss, loss, 0.1, 1), params)
        assert [key for key in names if result.adapted[key] != 1] == adapted


def test_outer_loss_that_ignores_the_parameters_is_refused() -> None:
    example = case("linear")
    problem = BilevelProblem(example.inner_loss, lambda _: torch.ones(()), example.step_size, 2)
    for spec in ("maml", "adjoint", "fomaml", "binom(order=1)", "imaml(lam=2.0)"):
        with pytest.raises(OptionError, match="differentiable"):
            create(spec)(problem, example.params)


def test_defaults_of_torch_for_device_and_type_change_nothing() -> None:
    example = case("mlp", torch.float32)
    sizes = {name: torch.full_like(value, 0.1) for name, value in example.params.items()}
    specs = ["maml(checkpoint='sqrt')", "mixed", "neumann(terms=2, lam=2.0)", "imaml(lam=2.0)"]
    specs += ["contrastive(lam=2.0)", "imaml(lam=2.0, solver='nystrom')", "lazy", "drmad"]
    specs += ["krylov(products=4, segments=2)", "binom-chebyshev(order=2)"]
    specs += ["binom(order=1)", "hf-maml", "adjoint(engine='func')"]

    def results() -> Iterator[Tensor | None]:
        for estimator in map(create, specs):
            problem = example.problem(5)
            yield flatten(estimator(problem, example.params).gradient)
            own = estimator.own_exact_gradient(problem, example.params)
            yield flatten(own) if own else None
            if estimator.supports_momentum:
                problem = example.problem(5, step_size=sizes, momentum=0.5)
                yield flatten(create("maml(checkpoint='sqrt')")(problem, example.params).gradient)

    expected = list(results())
    with torch.device("meta"):
        elsewhere = list(results())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        finer = list(results())
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(elsewhere, expected, rtol=0, atol=0)
    torch.testing.assert_close(finer, expected, rtol=0, atol=0)
