"""Estimates as compiled programs: equal to the eager ones, and compiled once for all data."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils._pytree import tree_structure, tree_unflatten

from estimators import (
    BilevelProblem,
    MetaGradient,
    OptionError,
    Params,
    available,
    create,
    estimate_batch,
    module_problem,
    trainable,
)
from estimators.base.registry import ESTIMATORS
from estimators.programs import compiled, making, modules
from estimators.programs.modules import Program
from harness.cell import Cell
from harness.conformance.cases import case
from harness.matrix.problems import bilevel_problem
from tests.support.oracle import flatten, relative_error

pytestmark = pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")

OPTIONS: dict[str, dict[str, float]] = {
    "binom": {"order": 2},
    "binom-calibrated": {"order": 2},
    "binom-released": {"order": 1},
    "hybrid": {"order": 1, "window": 2},
    "imaml": {"lam": 2.0},
    "neumann": {"terms": 2, "lam": 2.0},
    "truncated": {"order": 1},
}
COMPILABLE = [name for name in available() if "compiled" in ESTIMATORS.options(name)]


def assert_same(compiled: MetaGradient, eager: MetaGradient, tolerance: float = 1e-10) -> None:
    assert relative_error(compiled.gradient, flatten(eager.gradient)) < tolerance
    assert relative_error(compiled.adapted, flatten(eager.adapted)) < tolerance
    torch.testing.assert_close(compiled.outer_loss, eager.outer_loss, rtol=tolerance, atol=0)
    assert (compiled.step_size_gradient is None) == (eager.step_size_gradient is None)
    if compiled.step_size_gradient and eager.step_size_gradient:
        expected = flatten(eager.step_size_gradient)
        assert relative_error(compiled.step_size_gradient, expected) < tolerance
    assert (compiled.hvps, compiled.serial_depth) == (eager.hvps, eager.serial_depth)


def tensors(result: MetaGradient) -> list[Tensor]:
    dictionaries = (result.gradient, result.adapted, result.step_size_gradient or {})
    return [result.outer_loss, *(value for each in dictionaries for value in each.values())]


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Begin without programs at hand; the names of those that are made."""
    names: list[str] = []

    def make(*arguments: Any) -> Any:
        names.append(arguments[2].name)
        return make_program(*arguments)

    make_program = making.make
    monkeypatch.setattr(making, "make", make)
    compiled._known.clear()
    yield names
    compiled._known.clear()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace programs, but run them as they are instead of compiling them."""

    def scan(step: Any, carry: Any, rows: Tensor, *, reverse: bool = False) -> Any:
        found = []
        for row in reversed(rows) if reverse else rows:
            carry, each = step(carry, row)
            found.append(each)
        return carry, torch.stack(found) if found else rows.new_empty(0)

    def executable(program: Program) -> Any:
        arguments = [*(example for example, _ in program.given), *program.examples]
        structure = tree_structure(arguments)
        return lambda given: program(*tree_unflatten(given, structure))

    monkeypatch.setattr(modules, "scan", scan)
    monkeypatch.setattr(making, "executable", executable)


def regression(seed: int, *, shots: int = 6, steps: int = 2) -> tuple[BilevelProblem, Params]:
    """Return a problem of closures, other ones for each task, as people write them."""
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    x, y, query_x, query_y = draw(shots, 2), draw(shots, 1), draw(shots, 2), draw(shots, 1)

    def outputs(params: Params, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ params["first"]) @ params["second"]

    def inner_loss(params: Params) -> Tensor:
        return mse_loss(outputs(params, x), y)

    def outer_loss(params: Params) -> Tensor:
        return mse_loss(outputs(params, query_x), query_y)

    params = {"first": draw(2, 4), "second": draw(4, 1)}
    return BilevelProblem(inner_loss, outer_loss, step_size=0.2, steps=steps), params


def assert_compiled_once(name: str, made: list[str]) -> None:
    options = OPTIONS.get(name, {})
    compiled, eager = create(name, compiled=True, **options), create(name, **options)
    problem, params = regression(0, steps=4)
    assert_same(compiled(problem, params), eager(problem, params))
    before = [*made]
    for seed, steps, step_size in ((1, 2, 0.2), (2, 5, 0.1), (3, 3, 0.05)):
        problem, params = regression(seed)
        problem = replace(problem, steps=steps, step_size=step_size)
        assert_same(compiled(problem, params), eager(problem, params))
    assert before and made == before, "other data, depths or step sizes were compiled for again"


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", COMPILABLE)
def test_compiled_equals_eager_on_one_task_after_another(name: str, made: list[str]) -> None:
    assert_compiled_once(name, made)


@pytest.mark.parametrize(
    "name",
    [
        "maml",
        *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILABLE if name != "maml"),
    ],
)
def test_generated_code_equals_eager_on_one_task_after_another(name: str, made: list[str]) -> None:
    assert_compiled_once(name, made)


@pytest.mark.usefixtures("traced")
def test_other_shapes_and_depths_are_compiled_for_anew() -> None:
    compiled, eager = create("fomaml(compiled=True)"), create("fomaml")
    for shots, steps in ((6, 1), (7, 1), (7, 2)):
        problem, params = regression(2, shots=shots)
        problem = replace(problem, steps=steps)
        assert_same(compiled(problem, params), eager(problem, params))


@pytest.mark.usefixtures("traced")
def test_batch_normalisation_step_sizes_by_parameter_and_momentum() -> None:
    example, compiled, eager = case("convolution"), create("maml(compiled=True)"), create("maml")
    sizes = {name: torch.full_like(value, 0.1) for name, value in example.params.items()}
    problem = replace(example.problem(1), step_size=sizes, momentum=0.5)
    result = compiled(problem, example.params)
    assert result.step_size_gradient is not None
    assert_same(result, eager(problem, example.params))


@pytest.mark.usefixtures("traced")
def test_result_is_part_of_no_graph_and_outlives_the_next_call() -> None:
    compiled = create("reptile(compiled=True)")
    problem, params = regression(3)
    trainable_params: Params = {key: nn.Parameter(value) for key, value in params.items()}
    result = compiled(problem, trainable_params)
    before = flatten(result.gradient)
    compiled(*regression(4))
    assert torch.equal(flatten(result.gradient), before)
    assert not any(tensor.requires_grad for tensor in tensors(result))
    assert all(value.grad is None for value in trainable_params.values())


@pytest.mark.usefixtures("traced")
def test_meta_batch_of_a_module_at_once() -> None:
    module = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)).double()

    def problem(seed: int) -> BilevelProblem:
        data = torch.randn(4, 5, 1, generator=torch.Generator().manual_seed(seed)).double()
        return module_problem(
            module, mse_loss, (data[0], data[1]), (data[2], data[3]), step_size=0.1, steps=2
        )

    compiled = create("binom(order=1, compiled=True)")
    for first in (0, 10):
        problems, params = [problem(first + index) for index in range(3)], trainable(module)
        one = estimate_batch(compiled, problems, params, batching="vmap")
        other = estimate_batch(create("binom(order=1)"), problems, params)
        assert relative_error(one.gradient, flatten(other.gradient)) < 1e-10


class Attention(nn.Module):
    """In evaluation mode, where torch would take its attention for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["maml", "binom(order=1, batching='vmap')", "fomaml"])
def test_attention_is_compiled_in_a_form_that_has_the_derivatives(spec: str) -> None:
    batch = (torch.ones(2, 3, 4).double().cumsum(1), torch.ones(2, 3, 4).double())
    module = Attention()
    problem = module_problem(module, mse_loss, batch, batch, step_size=0.1, steps=1)
    compiled = create(spec, compiled=True)(problem, trainable(module))
    assert_same(compiled, create(spec)(problem, trainable(module)))


@pytest.mark.usefixtures("traced")
def test_second_derivatives_that_torch_lacks_are_told_from_within_the_compiler() -> None:
    def loss(params: Params) -> Tensor:
        return nn.functional.hardsigmoid(params["w"]).square().sum()

    with pytest.raises(OptionError, match=r"hardsigmoid twice .*hf-maml"):
        create("maml(compiled=True)")(BilevelProblem(loss, loss, 0.1, 1), {"w": torch.ones(3)})


def test_options_that_are_no_part_of_one_program_are_refused() -> None:
    for spec, options in (
        ("adjoint", {"engine": "reverse"}),
        ("adjoint", {"engine": "finite-difference"}),
        ("binom(order=2)", {"batching": "streams"}),
        ("binom(order=2)", {"batching": "sharded"}),
        ("binom(order=2)", {"batching": "vmap"}),
    ):
        with pytest.raises(OptionError, match="compiled"):
            create(spec, compiled=True, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batching", ["loop", "vmap", "chunk(2)"])
def test_cuda_graphs_are_launched_anew_for_data_anywhere(batching: str) -> None:
    compiled = create("binom(order=2)", batching=batching, compiled=True)
    cell = Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=5)
    results = []
    for index in range(6):  # each task is somewhere else in memory
        problem, params = bilevel_problem(cell, index, dtype=torch.float64, device="cuda:0")
        results.append((compiled(problem, params), create("binom(order=2)")(problem, params)))
    for one, other in results:
        assert_same(one, other)
