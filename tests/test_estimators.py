"""What every estimator computes and counts, against the dense reference, in float64."""

from collections.abc import Callable

import pytest
import torch

from estimators import BilevelProblem, OptionError, Params, create
from estimators.hvp import count_hvps
from estimators.methods.cascade import elementary_sums
from harness.conformance.cases import case
from tests.support.cases import NAMES, estimate, kinked, oracle
from tests.support.oracle import Descent, flatten, relative_error, unflatten

DEEPEST = 6
DEPTHS = range(DEEPEST + 1)
ORDERS = [(steps, order) for steps in DEPTHS for order in range(steps + 1)]
WINDOWS = [
    (steps, window, order)
    for steps in range(6)
    for window in range(steps + 1)
    for order in range(window + 1)
]
EXACT = 1e-10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_binom_is_the_sum_over_subsets(name: str, steps: int, order: int) -> None:
    result = estimate(f"binom(order={order})", name, steps)
    assert relative_error(result.gradient, oracle(name, steps).binomial(order)) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "window", "order"), WINDOWS)
def test_hybrid_is_the_sum_over_subsets_of_the_last_steps(
    name: str, steps: int, window: int, order: int
) -> None:
    result = estimate(f"hybrid(order={order}, window={window})", name, steps)
    expansion = oracle(name, steps).binomial(order, window)
    assert relative_error(result.gradient, expansion) < EXACT
    assert relative_error(result.adapted, oracle(name, steps).iterates[-1]) < EXACT
    assert (result.hvps, result.serial_depth) == (order * (window - order + 1), order)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", range(6))
def test_limits_of_hybrid_are_binom_and_truncated(name: str, order: int) -> None:
    for window, spec in ((5, f"binom(order={order})"), (order, f"truncated(order={order})")):
        hybrid, limit = (
            estimate(each, name, 5) for each in (f"hybrid(order={order}, window={window})", spec)
        )
        assert relative_error(hybrid.gradient, flatten(limit.gradient)) < EXACT, spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_released_binom_scales_the_step_by_order_over_depth(
    name: str, steps: int, order: int
) -> None:
    result = estimate(f"binom-released(order={order})", name, steps)
    scale = case(name).step_size * order / (steps or 1)
    expansion = oracle(name, steps).binomial(order, scale=scale)
    assert relative_error(result.gradient, expansion) < EXACT
    assert relative_error(result.adapted, oracle(name, steps).iterates[-1]) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS)
def test_elementary_sums_run_over_the_subsets_of_one_size(name: str, steps: int) -> None:
    found, reference = case(name), oracle(name, steps)
    points = [unflatten(phi, found.params) for phi in reference.iterates[:-1]]
    g = unflatten(reference.outer_gradient, found.params)
    for order in range(steps + 1):
        with count_hvps() as counter:
            sums = elementary_sums(
                found.inner_loss, points, g, order, scale=found.step_size, engine="reverse"
            )
        assert counter.products == order * (steps - order) + order * (order + 1) // 2
        assert len(sums) == order
        for size, total in enumerate(sums, start=1):
            expected = (-found.step_size) ** size * reference.subset_sum(size)
            assert relative_error(total, expected) < EXACT


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
@pytest.mark.parametrize("steps", range(11))
def test_maml_with_checkpoints_is_exact(name: str, steps: int) -> None:
    result = estimate("maml(checkpoint='sqrt')", name, steps)
    reference = oracle(name, steps)
    assert relative_error(result.gradient, reference.exact()) < EXACT
    assert relative_error(result.adapted, reference.iterates[-1]) < EXACT
    assert result.hvps == result.serial_depth == steps


@pytest.mark.parametrize(
    ("checkpoint", "rebuilt"), [("none", []), ("sqrt", [8, 9, 4, 5, 6, 7, 0, 1, 2, 3])]
)
def test_checkpoints_rebuild_one_segment_after_another(checkpoint: str, rebuilt: list[int]) -> None:
    found, reference, visited = case("quartic"), oracle("quartic", 10), []

    def inner_loss(params: Params) -> torch.Tensor:
        distances = [relative_error(params, phi) for phi in reference.iterates]
        visited.append(distances.index(min(distances)))
        return found.inner_loss(params)

    problem = BilevelProblem(inner_loss, found.outer_loss, found.step_size, 10)
    create("maml", checkpoint=checkpoint)(problem, found.params)
    assert visited == [*range(10), *rebuilt]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 5e-6), (torch.float32, 1e-2)], ids=str
)
def test_hf_maml_is_nearly_exact_on_smooth_losses(
    name: str, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    found = case(name, dtype)
    result = create("hf-maml")(found.problem(steps), found.params)
    assert relative_error(result.gradient, oracle(name, steps).exact()) < tolerance
    assert result.hvps == result.serial_depth == steps


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


@pytest.mark.parametrize("seed", range(5))
def test_hf_maml_steps_over_no_kinks(seed: int) -> None:
    found = kinked(torch.float64, seed)
    exact = flatten(create("adjoint")(found.problem(3), found.params).gradient)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-2)):
        found = kinked(dtype, seed)
        result = create("hf-maml")(found.problem(3), found.params)
        assert relative_error(result.gradient, exact) < tolerance, dtype


@pytest.mark.parametrize(("spec", "gradients"), [("adjoint", 8), ("hf-maml", 12)])
def test_hf_maml_takes_two_gradients_a_product(spec: str, gradients: int) -> None:
    found, calls = case("quartic"), 0

    def inner_loss(params: Params) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return found.inner_loss(params)

    create(spec)(BilevelProblem(inner_loss, found.outer_loss, 0.05, 4), found.params)
    assert calls == gradients


def geometric(steps: int, ratio: float) -> list[float]:
    raw = [ratio ** (steps - j) for j in range(1, steps + 1)]
    return [weight / sum(raw) for weight in raw]


MEANS: dict[str, Callable[[int], list[float]]] = {
    "mixed": lambda steps: [1 / steps] * steps,
    "mixed(weights='geometric')": lambda steps: geometric(steps, 0.5),
    "mixed(weights='geometric', ratio=0.8)": lambda steps: geometric(steps, 0.8),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", DEPTHS[1:])
def test_mixed_is_the_weighted_mean_of_exact_gradients(name: str, steps: int) -> None:
    given = (0, 2, 0, 0.5, 0, 3)[-steps:]
    means = {spec: weights(steps) for spec, weights in MEANS.items()}
    means[f"mixed(weights={given})"] = [weight / sum(given) for weight in given]
    for spec, weights in means.items():
        assert sum(weights) == pytest.approx(1)
        exact = [weight * oracle(name, j).exact() for j, weight in enumerate(weights, start=1)]
        result = estimate(spec, name, steps)
        assert relative_error(result.gradient, torch.stack(exact).sum(0)) < EXACT, spec
        assert result.hvps == result.serial_depth == steps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", MEANS)
def test_mixed_at_depth_0_is_the_outer_gradient(name: str, spec: str) -> None:
    result = estimate(spec, name, 0)
    assert relative_error(result.gradient, oracle(name, 0).outer_gradient) < EXACT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("spec", [*MEANS, "mixed(weights=(2, 0, 1, 3))", "anil"])
def test_exact_estimators_of_another_objective_know_it(name: str, steps: int, spec: str) -> None:
    found, estimator = case(name), create(spec)
    if estimator.unsupported_reason(steps):
        pytest.skip("weights for another depth")
    own = estimator.own_exact_gradient(found.problem(steps), found.params)
    assert own is not None
    assert relative_error(own, flatten(estimate(spec, name, steps).gradient)) < EXACT


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixed(weights='linear')", "'uniform' nor 'geometric'"),
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
        ("neumann(terms=-1)", "0 or more"),
        ("neumann(terms=1, lam=0.0)", "positive"),
        ("maml(checkpoint='log')", "none.*sqrt"),
        ("anil(head='crown')", "'crown'.*first, second"),
    ],
)
def test_options_that_make_no_sense_are_refused(spec: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        estimate(spec, "mlp", 3)


HEADS = {
    "quartic": [("anil", ["w"])],
    "mlp": [("anil", ["second"]), ("anil(head='first')", ["first"])],
    "convolution": [("anil", ["head"]), ("anil(head='scale')", ["scale"])],
    "linear": [("anil", ["w"])],
    "uneven": [("anil", ["inner"]), ("anil(head='both')", ["both"])],
}


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_anil_descends_and_differentiates_on_the_head_alone(name: str, steps: int) -> None:
    found = case(name)
    for spec, head in HEADS[name]:
        sizes = {
            key: torch.tensor(found.step_size if key in head else 0, dtype=torch.float64)
            for key in found.params
        }
        reference = Descent(oracle(name, steps), sizes)
        result = estimate(spec, name, steps)
        assert relative_error(result.gradient, reference.gradients[0]) < EXACT, spec
        assert relative_error(result.adapted, reference.adapted) < EXACT, spec
        assert result.hvps == result.serial_depth == steps
        for key in found.params.keys() - set(head):
            assert torch.equal(result.adapted[key], found.params[key])


@pytest.mark.parametrize(
    ("spec", "adapted"),
    [("anil", ["net.4.weight", "net.4.bias"]), ("anil(head='net')", None)],
)
def test_head_of_anil_is_a_whole_module(spec: str, adapted: list[str] | None) -> None:
    names = ["net.40.weight", "net.4.weight", "net.0.weight", "net.4.bias"]

    def loss(params: Params) -> torch.Tensor:
        return torch.stack([params[key].exp() for key in names]).sum()

    params = {key: torch.ones(()) for key in names}
    result = create(spec)(BilevelProblem(loss, loss, 0.1, 1), params)
    assert [key for key in names if result.adapted[key] != 1] == (adapted or names)


@pytest.mark.parametrize(("steps", "order"), ORDERS)
def test_products_are_counted_as_the_formulas_say(steps: int, order: int) -> None:
    expected = {
        "maml": (steps, steps),
        "adjoint": (steps, steps),
        "fomaml": (0, 0),
        "reptile": (0, 0),
        f"truncated(order={order})": (order, order),
        f"binom(order={order})": (order * (steps - order + 1), order),
        f"binom-released(order={order})": (order * (steps - order + 1), order),
    }
    for spec, (hvps, serial_depth) in expected.items():
        result = estimate(spec, "quartic", steps)
        assert (result.hvps, result.serial_depth) == (hvps, serial_depth), spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "order"), [(1, 1), (3, 2), (5, 1), (5, 4), (6, 3)])
def test_products_are_counted_as_they_are_taken(name: str, steps: int, order: int) -> None:
    specs = ["adjoint", "hf-maml", "mixed", "mixed(weights='geometric')"]
    specs += [f"imaml(lam=4.0, cg_steps={order})", f"neumann(lam=4.0, terms={order})"]
    specs += [f"binom(order={order})", f"binom-released(order={order})"]
    for spec in (*specs, f"hybrid(order={order}, window={steps})"):
        with count_hvps() as counter:
            result = estimate(spec, name, steps)
        assert result.hvps == counter.products > 0, spec


@pytest.mark.parametrize("spec", ["maml", "adjoint", "fomaml", "binom(order=1)", "imaml(lam=2.0)"])
def test_outer_loss_that_ignores_the_parameters_is_refused(spec: str) -> None:
    found = case("linear")
    problem = BilevelProblem(found.inner_loss, lambda _: torch.ones(()), found.step_size, 2)
    with pytest.raises(OptionError, match="differentiable"):
        create(spec)(problem, found.params)
