"""Momentum and a step size for each parameter, against the dense reference, in float64."""

from functools import cache

import pytest
import torch
from torch import nn

from estimators import BilevelProblem, OptionError, Params, available, create
from estimators.base.registry import ESTIMATORS
from harness.conformance.cases import case
from tests.support.cases import NAMES, oracle
from tests.support.oracle import Descent, relative_error

EXACT = 1e-10
# Which step sizes, and mu.
WAYS = [
    ("number", 0.5),
    ("number", 0.9),
    ("entries", 0.0),
    ("scalars", 0.0),
    ("rows", 0.0),
    ("one zero", 0.0),
    ("entries", 0.5),
    ("scalars", 0.9),
    ("one zero", 0.9),
]
DERIVED_FOR_ANY = ["maml", "adjoint", "truncated(order=1)", "fomaml"]
PLAIN_ALONE = [name for name in available() if name not in ("truncated", *DERIVED_FOR_ANY)]

every_way = pytest.mark.parametrize(("kind", "momentum"), WAYS)
every_case = pytest.mark.parametrize("name", NAMES)


@cache
def sizes(name: str, kind: str) -> Params:
    """Step sizes near the case's own, in another order than the parameters."""
    found = case(name)
    generator = torch.Generator().manual_seed(0)
    last = list(found.params)[-1]
    made: Params = {}
    for key, value in reversed(found.params.items()):
        shape = {"entries": value.shape, "rows": value.shape[-1:]}.get(kind, torch.Size())
        near = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
        even = kind == "number"
        made[key] = found.step_size * (torch.ones_like(near) if even else near)
        if kind == "one zero" and key == last:
            made[key] = torch.zeros_like(near)
    return made


@cache
def descent(name: str, kind: str, momentum: float, steps: int) -> Descent:
    return Descent(oracle(name, steps), sizes(name, kind), momentum)


def problem(name: str, kind: str, momentum: float, steps: int) -> BilevelProblem:
    found = case(name)
    step_size = found.step_size if kind == "number" else sizes(name, kind)
    return BilevelProblem(found.inner_loss, found.outer_loss, step_size, steps, momentum)


@every_case
@every_way
@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_exact_estimators_differentiate_the_descent(
    name: str, kind: str, momentum: float, steps: int
) -> None:
    reference = descent(name, kind, momentum, steps)
    by_theta, by_sizes = reference.gradients
    for spec in ("maml", "maml(checkpoint='sqrt')", "adjoint", f"truncated(order={steps})"):
        result = create(spec)(problem(name, kind, momentum, steps), case(name).params)
        assert relative_error(result.gradient, by_theta) < EXACT, spec
        assert relative_error(result.adapted, reference.adapted) < EXACT, spec
        assert result.hvps == result.serial_depth == steps, spec
        if kind == "number":
            assert result.step_size_gradient is None, spec
        else:
            assert result.step_size_gradient is not None
            assert list(result.step_size_gradient) == list(sizes(name, kind)), spec
            assert relative_error(result.step_size_gradient, by_sizes) < EXACT, spec


@every_case
@every_way
@pytest.mark.parametrize("order", range(5))
def test_truncated_holds_the_first_steps_and_their_velocity_fixed(
    name: str, kind: str, momentum: float, order: int
) -> None:
    reference = descent(name, kind, momentum, 4)
    by_theta, by_sizes = reference.last(order).gradients
    spec = f"truncated(order={order})"
    result = create(spec)(problem(name, kind, momentum, 4), case(name).params)
    assert relative_error(result.gradient, by_theta) < EXACT
    assert relative_error(result.adapted, reference.adapted) < EXACT
    assert result.hvps == result.serial_depth == order
    assert (result.step_size_gradient is None) is (kind == "number")
    if result.step_size_gradient is not None:
        assert relative_error(result.step_size_gradient, by_sizes) < EXACT


@every_case
@every_way
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_fomaml_is_the_outer_gradient_where_the_descent_leads(
    name: str, kind: str, momentum: float, steps: int
) -> None:
    reference = descent(name, kind, momentum, steps)
    result = create("fomaml")(problem(name, kind, momentum, steps), case(name).params)
    assert relative_error(result.gradient, reference.outer_gradient) < EXACT
    assert relative_error(result.adapted, reference.adapted) < EXACT
    assert (result.step_size_gradient is None) is (kind == "number")
    for key, value in (result.step_size_gradient or {}).items():
        assert torch.equal(value, torch.zeros_like(sizes(name, kind)[key]))


@pytest.mark.parametrize("steps", range(11))
def test_checkpoints_carry_the_velocity_over(steps: int) -> None:
    by_theta, by_sizes = descent("mlp", "entries", 0.9, steps).gradients
    maml = create("maml(checkpoint='sqrt')")
    result = maml(problem("mlp", "entries", 0.9, steps), case("mlp").params)
    assert relative_error(result.gradient, by_theta) < EXACT
    assert result.step_size_gradient is not None
    assert relative_error(result.step_size_gradient, by_sizes) < EXACT


@pytest.mark.parametrize("spec", [*DERIVED_FOR_ANY, "maml(checkpoint='sqrt')"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_trainable_step_sizes_are_left_alone(spec: str, momentum: float) -> None:
    found, plain = case("mlp"), sizes("mlp", "entries")
    trainable: Params = {key: nn.Parameter(value.clone()) for key, value in plain.items()}
    grads = {key: torch.full_like(value, 7) for key, value in plain.items()}
    for key, value in trainable.items():
        value.grad = grads[key]

    def run(step_size: Params) -> tuple[Params, ...]:
        losses = found.inner_loss, found.outer_loss
        result = create(spec)(BilevelProblem(*losses, step_size, 3, momentum), found.params)
        loss = {"loss": result.outer_loss}
        return loss, result.gradient, result.adapted, result.step_size_gradient or {}

    for returned, expected in zip(run(trainable), run(plain), strict=True):
        for key, value in returned.items():
            assert torch.equal(value, expected[key])
            assert not value.requires_grad
    for key, value in trainable.items():
        assert value.grad is grads[key]
        assert torch.equal(grads[key], torch.full_like(grads[key], 7))
        assert torch.equal(value, plain[key])


@pytest.mark.parametrize("name", PLAIN_ALONE)
@pytest.mark.parametrize(("kind", "momentum"), [("number", 0.5), ("entries", 0.0)])
def test_other_estimators_refuse_what_they_are_not_derived_for(
    name: str, kind: str, momentum: float
) -> None:
    options = ESTIMATORS.options(name).values()
    needed = {option.name: 1 for option in options if option.default is option.empty}
    with pytest.raises(OptionError, match="plain gradient descent"):
        create(name, **needed)(problem("mlp", kind, momentum, 3), case("mlp").params)


@pytest.mark.parametrize("spec", ["adjoint(engine='reverse')", "adjoint(engine='func')"])
@pytest.mark.parametrize(("kind", "momentum"), [("number", 0.5), ("entries", 0.0)])
def test_adjoint_has_no_choice_of_engine_there(spec: str, kind: str, momentum: float) -> None:
    with pytest.raises(OptionError, match="is for plain gradient descent with one step size"):
        create(spec)(problem("mlp", kind, momentum, 3), case("mlp").params)


def loss(params: Params) -> torch.Tensor:
    return params["w"].square().sum()


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_momentum_out_of_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(OptionError, match=f"momentum={momentum} must be 0 or more and below 1"):
        BilevelProblem(loss, loss, 0.1, 2, momentum)


@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan"), float("inf")])
def test_number_that_is_no_step_size_is_refused(step_size: float) -> None:
    with pytest.raises(OptionError, match=f"step_size={step_size} must be positive"):
        BilevelProblem(loss, loss, step_size, 2)


@pytest.mark.parametrize("spec", DERIVED_FOR_ANY)
@pytest.mark.parametrize(("keys", "odd"), [("", "w"), ("v", "v"), ("wv", "v")])
def test_step_sizes_of_other_parameters_are_refused(spec: str, keys: str, odd: str) -> None:
    step_size = {key: torch.tensor(0.1) for key in keys}
    with pytest.raises(OptionError, match=f"for each parameter; see '{odd}'"):
        create(spec)(BilevelProblem(loss, loss, step_size, 2), {"w": torch.ones(3)})


@pytest.mark.parametrize("spec", DERIVED_FOR_ANY)
@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 1)], ids=str)
def test_step_sizes_that_do_not_broadcast_to_their_parameter_are_refused(
    spec: str, shape: tuple[int, ...]
) -> None:
    problem = BilevelProblem(loss, loss, {"w": torch.full(shape, 0.1)}, 2)
    with pytest.raises(OptionError, match=r"step_size.*'w'"):
        create(spec)(problem, {"w": torch.ones(3)})
