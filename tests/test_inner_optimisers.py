"""Momentum and a step size for each parameter, against the dense reference, in float64."""

from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from estimators import BilevelProblem, MetaGradient, OptionError, Params, create
from harness.conformance.cases import case
from tests.support.cases import EXACT, every_case, oracle
from tests.support.oracle import Descent, relative_error

# Which step sizes, and mu.
WAYS = [
    *(("number", mu) for mu in (0.5, 0.9)),
    *((kind, 0.0) for kind in ("entries", "scalars", "rows", "one zero")),
    *(("entries", 0.5), ("scalars", 0.9), ("one zero", 0.9)),
]
DERIVED_FOR_ANY = ["maml", "adjoint", "truncated(order=1)", "fomaml"]


@cache
def sizes(name: str, kind: str) -> Params:
    """Step sizes near the case's own, in another order than the parameters."""
    example = case(name)
    generator = torch.Generator().manual_seed(0)
    last = list(example.params)[-1]
    result: Params = {}
    for key, value in reversed(example.params.items()):
        shape = {"entries": value.shape, "rows": value.shape[-1:]}.get(kind, torch.Size())
        near = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
        even = kind == "number"
        result[key] = example.step_size * (torch.ones_like(near) if even else near)
        if kind == "one zero" and key == last:
            result[key] = torch.zeros_like(near)
    return result


@cache
def descent(name: str, kind: str, momentum: float, steps: int) -> Descent:
    return Descent(oracle(name, steps), sizes(name, kind), momentum)


def problem(name: str, kind: str, momentum: float, steps: int) -> BilevelProblem:
    example = case(name)
    step_size = example.step_size if kind == "number" else sizes(name, kind)
    return BilevelProblem(example.inner_loss, example.outer_loss, step_size, steps, momentum)


def assert_follows(
    spec: str, name: str, way: tuple[str, float], steps: int, by_theta: Tensor, by_sizes: Tensor
) -> MetaGradient:
    """Check both gradients of an estimate, and its adapted parameters."""
    where = spec, way, steps
    result = create(spec)(problem(name, *way, steps), case(name).params)
    assert relative_error(result.gradient, by_theta) < EXACT, where
    assert relative_error(result.adapted, descent(name, *way, steps).adapted) < EXACT, where
    assert (result.step_size_gradient is None) is (way[0] == "number"), where
    if result.step_size_gradient is not None:
        assert list(result.step_size_gradient) == list(sizes(name, way[0])), where
        assert relative_error(result.step_size_gradient, by_sizes) < EXACT, where
    return result


@every_case
def test_exact_estimators_differentiate_the_descent(name: str) -> None:
    for way, steps in product(WAYS, (0, 1, 2, 4)):
        gradients = descent(name, *way, steps).gradients
        exact = ("maml", "maml(checkpoint='sqrt')", "adjoint", "adjoint(checkpoint='sqrt')")
        for spec in (*exact, f"truncated(order={steps})"):
            result = assert_follows(spec, name, way, steps, *gradients)
            assert result.hvps == result.serial_depth == steps, spec
    if name == "mlp":
        for steps in range(11):
            gradients = descent("mlp", "entries", 0.9, steps).gradients
            for spec in ("maml(checkpoint='sqrt')", "adjoint(checkpoint='sqrt')"):
                assert_follows(spec, "mlp", ("entries", 0.9), steps, *gradients)


@every_case
def test_truncated_holds_the_first_steps_and_their_velocity_fixed(name: str) -> None:
    for way, order in product(WAYS, range(5)):
        gradients = descent(name, *way, 4).last(order).gradients
        result = assert_follows(f"truncated(order={order})", name, way, 4, *gradients)
        assert result.hvps == result.serial_depth == order


@every_case
def test_fomaml_is_the_outer_gradient_at_the_end_of_the_descent(name: str) -> None:
    for way, steps in product(WAYS, (0, 1, 4)):
        reference = descent(name, *way, steps)
        zeros = torch.zeros_like(reference.gradients[1])
        assert_follows("fomaml", name, way, steps, reference.outer_gradient, zeros)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_trainable_step_sizes_are_left_alone(momentum: float) -> None:
    example, plain = case("mlp"), sizes("mlp", "entries")
    trainable: Params = {key: nn.Parameter(value.clone()) for key, value in plain.items()}
    grads = {key: torch.full_like(value, 7) for key, value in plain.items()}
    for key, value in trainable.items():
        value.grad = grads[key]

    def run(spec: str, step_size: Params) -> tuple[Params, ...]:
        losses = example.inner_loss, example.outer_loss
        result = create(spec)(BilevelProblem(*losses, step_size, 3, momentum), example.params)
        loss = {"loss": result.outer_loss}
        return loss, result.gradient, result.adapted, result.step_size_gradient or {}

    for spec in (*DERIVED_FOR_ANY, "maml(checkpoint='sqrt')"):
        for returned, expected in zip(run(spec, trainable), run(spec, plain), strict=True):
            for key, value in returned.items():
                assert torch.equal(value, expected[key]), spec
                assert not value.requires_grad, spec
    for key, value in trainable.items():
        assert value.grad is grads[key]
        assert torch.equal(grads[key], torch.full_like(grads[key], 7))
        assert torch.equal(value, plain[key])


def test_other_inner_loops_are_refused_by_estimators_that_are_not_derived_for_them() -> None:
    for spec in (
        "binom(order=1)",
        "reptile",
        "adjoint(engine='reverse')",
        "adjoint(engine='func')",
    ):
        for way in (("number", 0.5), ("entries", 0.0)):
            with pytest.raises(OptionError, match="plain gradient descent"):
                create(spec)(problem("mlp", *way, 3), case("mlp").params)


def loss(params: Params) -> Tensor:
    return params["w"].square().sum()


def test_numbers_out_of_their_range_are_refused() -> None:
    for momentum in (-0.1, 1.0, 1.5, float("nan"), float("inf")):
        with pytest.raises(OptionError, match=f"momentum={momentum}"):
            BilevelProblem(loss, loss, 0.1, 2, momentum)
    for step_size in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match=f"step_size={step_size}"):
            BilevelProblem(loss, loss, step_size, 2)
    with pytest.raises(OptionError, match="steps=-1"):
        BilevelProblem(loss, loss, 0.1, -1)


@pytest.mark.parametrize("spec", DERIVED_FOR_ANY)
def test_step_sizes_that_do_not_fit_the_parameters_are_refused(spec: str) -> None:
    params = {"w": torch.ones(3)}
    for keys, unmatched in (("", "w"), ("v", "v"), ("wv", "v")):
        step_size = {key: torch.tensor(0.1) for key in keys}
        with pytest.raises(OptionError, match=f"'{unmatched}'"):
            create(spec)(BilevelProblem(loss, loss, step_size, 2), params)
    for shape in ((4,), (2, 3), (3, 1)):
        step_size = {"w": torch.full(shape, 0.1)}
        with pytest.raises(OptionError, match=r"step_size.*'w'"):
            create(spec)(BilevelProblem(loss, loss, step_size, 2), params)
