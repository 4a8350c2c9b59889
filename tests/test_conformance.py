"""What every registered estimator must do, those of other distributions included."""

import gc
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from estimators import BilevelProblem, Estimator, OptionError, Params, available, create
from tests.cases import NAMES, case, oracle
from tests.oracle import flatten, relative_error

OPTIONS = {
    "binom": "(order=1)",
    "binom-released": "(order=1)",
    "hybrid": "(order=1, window=1)",
    "imaml": "(lam=2.0)",
    "neumann": "(terms=2, lam=2.0)",
    "truncated": "(order=1)",
}
SPECS = [name + OPTIONS.get(name, "") for name in available()]
DTYPES = [torch.float32, torch.float64]

every_estimator = pytest.mark.parametrize("estimator", SPECS, indirect=True)
every_case = pytest.mark.parametrize("name", NAMES)
every_depth = pytest.mark.parametrize("steps", [1, 3])


@pytest.fixture
def estimator(request: pytest.FixtureRequest) -> Estimator:
    return create(request.param)


def copy(params: Params) -> Params:
    return {name: value.detach().clone() for name, value in params.items()}


def assert_equal(one: Params, other: Params) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def returned(estimator: Estimator, problem: BilevelProblem, params: Params) -> list[Tensor]:
    result = estimator(problem, params)
    return [*result.gradient.values(), *result.adapted.values(), result.outer_loss]


@every_estimator
@every_case
@every_depth
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_matches_the_parameters(
    estimator: Estimator, name: str, steps: int, dtype: torch.dtype
) -> None:
    found = case(name, dtype)
    result = estimator(found.problem(steps), found.params)
    for tensors in (result.gradient, result.adapted):
        assert list(tensors) == list(found.params)
        for key, value in found.params.items():
            assert tensors[key].shape == value.shape
            assert tensors[key].dtype == dtype
            assert tensors[key].isfinite().all()
    assert result.outer_loss.shape == ()
    assert result.outer_loss.dtype == dtype
    assert torch.equal(result.outer_loss, found.outer_loss(result.adapted))
    assert 0 <= result.serial_depth <= result.hvps


@every_estimator
@every_case
def test_single_precision_follows_double(estimator: Estimator, name: str) -> None:
    single, double = case(name, torch.float32), case(name, torch.float64)
    rough = estimator(single.problem(3), single.params).gradient
    fine = estimator(double.problem(3), double.params).gradient
    assert relative_error(rough, flatten(fine)) < 1e-3


@every_estimator
@every_case
@every_depth
def test_adapted_parameters_are_those_of_gradient_descent(
    estimator: Estimator, name: str, steps: int
) -> None:
    found = case(name)
    problem = found.problem(steps)
    if estimator.own_exact_gradient(problem, found.params) is not None:
        pytest.skip("it follows an objective of its own")
    adapted = estimator(problem, found.params).adapted
    assert relative_error(adapted, oracle(name, steps).iterates[-1]) < 1e-12


@every_estimator
@every_case
@pytest.mark.parametrize("trainable", [False, True], ids=["tensors", "nn.Parameters"])
@pytest.mark.parametrize("enabled", [True, False], ids=["grad", "no_grad"])
def test_parameters_and_grad_mode_are_left_alone(
    estimator: Estimator, name: str, trainable: bool, enabled: bool
) -> None:
    found = case(name)
    problem = found.problem(3)
    params: Params = {
        key: nn.Parameter(value) if trainable else value
        for key, value in copy(found.params).items()
    }
    grads = {key: torch.full_like(value, 7) for key, value in copy(params).items()}
    for key, value in params.items():
        value.grad = grads[key]
    expected = estimator(problem, found.params).gradient

    with nullcontext() if enabled else torch.no_grad():
        result = estimator(problem, params)
        assert torch.is_grad_enabled() is enabled

    assert_equal(result.gradient, expected)
    assert_equal(copy(params), found.params)
    for key, value in params.items():
        assert value.requires_grad is trainable
        assert value.grad is grads[key]
        assert torch.equal(grads[key], torch.full_like(grads[key], 7))


@every_estimator
@every_case
@every_depth
def test_nothing_returned_is_part_of_a_graph(estimator: Estimator, name: str, steps: int) -> None:
    found = case(name)
    trainable: Params = {key: nn.Parameter(value) for key, value in found.params.items()}
    for tensor in returned(estimator, found.problem(steps), trainable):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


@every_estimator
@every_depth
def test_result_outlives_a_step_on_the_parameters(estimator: Estimator, steps: int) -> None:
    found = case("mlp")
    params = copy(found.params)
    tensors = returned(estimator, found.problem(steps), params)
    kept = [tensor.clone() for tensor in tensors]
    for value in params.values():
        value.add_(1)
    assert all(map(torch.equal, tensors, kept))


@every_estimator
@every_case
def test_same_call_gives_the_same_bits(estimator: Estimator, name: str) -> None:
    found = case(name)
    once, again = (estimator(found.problem(3), found.params) for _ in range(2))
    assert_equal(once.gradient, again.gradient)
    assert_equal(once.adapted, again.adapted)
    assert torch.equal(once.outer_loss, again.outer_loss)
    assert (once.hvps, once.serial_depth) == (again.hvps, again.serial_depth)


@every_estimator
@pytest.mark.parametrize("name", ["mlp", "linear"])
def test_no_tensor_is_left_behind(estimator: Estimator, name: str) -> None:
    found = case(name)
    problem = found.problem(3)

    def storages() -> int:
        tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), Tensor))
        return len({tensor.untyped_storage().data_ptr() for tensor in tensors})

    estimator(problem, found.params)
    gc.collect()
    gc.disable()  # what only the collector would free counts as left behind
    try:
        before = storages()
        for _ in range(3):
            estimator(problem, found.params)
        assert storages() == before
    finally:
        gc.enable()


@every_estimator
def test_parameter_that_no_loss_uses_has_no_gradient(estimator: Estimator) -> None:
    found = case("uneven")
    assert not estimator(found.problem(3), found.params).gradient["idle"].any()


@every_estimator
def test_own_exact_gradient_matches_the_parameters(estimator: Estimator) -> None:
    found = case("mlp")
    trainable: Params = {key: nn.Parameter(value) for key, value in found.params.items()}
    with torch.no_grad():
        own = estimator.own_exact_gradient(found.problem(3), trainable)
    if own is None:
        pytest.skip("its objective is the outer loss after K steps")
    assert list(own) == list(found.params)
    for key, value in trainable.items():
        assert own[key].shape == value.shape
        assert not own[key].requires_grad
        assert value.grad is None


@every_estimator
@pytest.mark.parametrize("shape", [(1,), (3,)], ids=str)
@pytest.mark.parametrize("level", ["inner", "outer"])
def test_loss_that_is_no_scalar_is_refused(
    estimator: Estimator, level: str, shape: tuple[int, ...]
) -> None:
    def scalar(params: Params) -> Tensor:
        return params["w"].square().sum()

    def vector(params: Params) -> Tensor:
        return scalar(params).expand(shape)

    inner, outer = (vector, scalar) if level == "inner" else (scalar, vector)
    with pytest.raises(OptionError, match="scalar"):
        estimator(BilevelProblem(inner, outer, 0.1, 2), {"w": torch.ones(2)})


@every_estimator
def test_inner_loss_that_ignores_the_parameters_is_refused(estimator: Estimator) -> None:
    def outer(params: Params) -> Tensor:
        return params["w"].square().sum()

    def inner(params: Params) -> Tensor:
        return outer(params).detach()

    with pytest.raises(OptionError, match="differentiable"):
        estimator(BilevelProblem(inner, outer, 0.1, 2), {"w": torch.ones(2)})
