"""Products that vmap cannot take, or takes wrongly: the loop with a warning, or a refusal."""

import gc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gaussian_nll_loss, mse_loss
from torch.utils.flop_counter import FlopCounterMode

from estimators import BilevelProblem, OptionError, Params, create, module_problem, trainable
from estimators.base import agreement
from estimators.base.agreement import fault_of_vmap, kind_of
from estimators.hvp import count_hvps
from tests.support.oracle import flatten, relative_error

SPECS = ["binom(order=1)", "binom-released(order=2)", "hybrid(order=1, window=5)"]
ASKED = ["vmap", "chunk(2)"]
X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
THETA = {"w": torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)}
COUNTS = torch.zeros(3, 2).double()
Outputs = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    agreement._known.clear()
    yield
    agreement._known.clear()


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = kind(1, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x[..., None])[0][:, -1, :1]
        return result


def module_problems(kind: Callable[..., nn.Module]) -> tuple[BilevelProblem, Params]:
    torch.manual_seed(0)
    module = Recurrent(kind).double()
    batch = X, X[:, :1]
    problem = module_problem(module, mse_loss, batch, batch, step_size=0.1, steps=6)
    return problem, trainable(module)


def checked(z: Tensor) -> Tensor:
    if z.isnan().any():
        raise ValueError("diverged")
    return z


def scaled_by_its_mean(z: Tensor) -> Tensor:
    return z / (1 + abs(z.mean().item()))


def counted(z: Tensor) -> Tensor:
    COUNTS.add_(z.detach())
    return z


def drawn(z: Tensor) -> Tensor:
    return z * torch.ones(2).double().bernoulli_(1.0)


def scattered(z: Tensor) -> Tensor:  # torch 2.13 is wrong here: see below
    return torch.select_scatter(z * z, z[:, 0], 1, 1)


def nll(z: Tensor) -> Tensor:
    return gaussian_nll_loss(z[:, 0], X[:, 0], z[:, 1].exp())


FAILING: dict[str, Outputs] = {
    "data-dependent": checked,
    "item": scaled_by_its_mean,
    "in place": counted,
    "random": drawn,
    "gaussian_nll_loss": nll,
    "wrong": scattered,
}


def problem_of(outputs: Outputs, steps: int = 6, x: Tensor = X) -> BilevelProblem:
    def loss(params: Params) -> Tensor:
        return outputs((x @ params["w"]).tanh()).square().mean()

    return BilevelProblem(loss, loss, 0.1, steps)


def assert_falls_back(problem: BilevelProblem, params: Params) -> None:
    for spec in SPECS:
        agreement._known.clear()
        expected = flatten(create(spec, batching="loop")(problem, params).gradient)
        with count_hvps() as counter, pytest.warns(UserWarning, match=r"vmap .*batching=.loop"):
            result = create(spec)(problem, params)
        assert counter.products == result.hvps
        assert relative_error(result.gradient, expected) < 1e-12
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            create(spec)(problem, params)
        for batching in ASKED:
            with pytest.raises(OptionError, match=r"vmap .*batching=.loop"):
                create(spec, batching=batching)(problem, params)


@pytest.mark.parametrize("name", FAILING)
def test_the_loop_stands_in_for_vmap_by_default_and_what_was_asked_for_is_refused(
    name: str,
) -> None:
    assert_falls_back(problem_of(FAILING[name]), THETA)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_fall_back(kind: Callable[..., nn.Module]) -> None:
    assert_falls_back(*module_problems(kind))


@pytest.mark.parametrize("engine", ["auto", "func", "finite-difference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_agrees_is_taken_together_and_compared_unseen(engine: str, dtype: torch.dtype) -> None:
    problem, params = problem_of(torch.sigmoid, x=X.to(dtype)), {"w": THETA["w"].to(dtype)}
    estimator, flops = create("binom(order=1)", engine=engine), []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                estimator(problem, params)
            flops.append(counter.get_total_flops())
    assert [*agreement._known.values()] == [""]
    assert flops[0] == flops[1]


def test_losses_of_new_tasks_are_not_compared_again_and_nothing_is_kept() -> None:
    def loss_of(module: nn.Module, x: Tensor) -> Callable[[Params], Tensor]:
        return lambda params: torch.func.functional_call(module, params, (x,)).square().mean()

    def task(module: nn.Module, rows: int) -> None:
        loss = partial(loss_of(module, X[:rows] + 0.1))
        problem = BilevelProblem(loss, loss, 0.1, 6)
        create("binom(order=1)")(problem, trainable(module))

    one, other = nn.Linear(4, 2).double(), nn.Linear(4, 2).double()
    for module, rows, kinds in ((one, 3, 1), (one, 3, 1), (one, 2, 2), (other, 3, 3), (one, 3, 3)):
        task(module, rows)
        assert len(agreement._known) == kinds
    gone = ref(other)
    del other, module
    gc.collect()
    assert gone() is None
    for number in range(2 * agreement._MOST):
        fault_of_vmap(number, lambda: [THETA], lambda: [THETA])
    assert len(agreement._known) <= agreement._MOST


def test_kinds_differ_in_code_modes_and_shapes_and_not_in_data() -> None:
    module, kinds = nn.Sequential(nn.Linear(4, 2), nn.ReLU()), []

    class Loss:
        def __init__(self, x: Tensor, criterion: Callable[..., Tensor]) -> None:
            self.x, self.criterion = x, criterion

        def __call__(self, params: Params) -> Tensor:
            return self.criterion(module(self.x))

        def other(self, params: Params) -> Tensor:
            return self.criterion(self.x)

    def made(x: Tensor, criterion: Callable[..., Tensor] = torch.sum) -> Loss:
        return Loss(x, criterion)

    assert kind_of(made(X)) == kind_of(made(X + 1))
    assert kind_of(made(X).other) == kind_of(made(X + 1).other)
    assert kind_of(partial(made, X)) == kind_of(partial(made, X + 1))
    kinds = [
        kind_of(made(X)),
        kind_of(made(X[:2])),
        kind_of(made(X.float())),
        kind_of(made(X).other),
    ]
    kinds += [kind_of(made(X, module)), kind_of(made(X, lambda x: x)), kind_of(made(X, abs))]
    module[1].eval()
    kinds.append(kind_of(made(X, module)))
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("batching", ["auto", "vmap"])
def test_used_up_memory_and_errors_of_the_loss_pass_as_they_are(batching: str) -> None:
    def failing(error: Exception, always: bool) -> Outputs:
        def outputs(z: Tensor) -> Tensor:
            if torch._C._functorch.is_batchedtensor(z) or (always and next(calls) > 7):
                raise error
            return z

        calls = iter(range(99))
        return outputs

    for error, always in (
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (KeyError(1), True),
    ):
        with pytest.raises(type(error)) as caught:
            create("binom(order=1)", batching=batching)(problem_of(failing(error, always)), THETA)
        assert caught.value is error
