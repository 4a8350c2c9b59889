"""Estimates as compiled programs: equal to the eager ones, and compiled once for all data."""

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

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
from estimators.programs import compiled, making
from estimators.programs.compiled import CompiledProblem
from estimators.programs.disk import Executable
from estimators.programs.launches import Launched
from harness.cell import Cell
from harness.conformance.cases import case
from harness.matrix.problems import bilevel_problem
from tests.support.oracle import flatten, relative_error
from tests.support.programs import run_as_traced

pytestmark = pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")

OPTIONS: dict[str, dict[str, float]] = {
    "binom": {"order": 2},
    "binom-released": {"order": 1},
    "hybrid": {"order": 1, "window": 2},
    "imaml": {"lam": 2.0},
    "krylov": {"products": 2},
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
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Begin without programs at hand, or on disk; the names of those that are made."""
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
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
    run_as_traced(monkeypatch)


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
    assert made == before, "other data, depths or step sizes were compiled for again"


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", COMPILABLE)
def test_compiled_equals_eager_on_one_task_after_another(name: str, made: list[str]) -> None:
    assert_compiled_once(name, made)
    assert made


@pytest.mark.parametrize(
    "name",
    [
        "maml",
        *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILABLE if name != "maml"),
    ],
)
def test_generated_code_equals_eager_on_one_task_after_another(
    name: str,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Estimators share programs, and find those of each other on disk."""
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path_factory.getbasetemp() / "programs"))
    assert_compiled_once(name, made)


@pytest.mark.usefixtures("traced")
def test_options_need_no_program_of_their_own(made: list[str]) -> None:
    arguments = regression(0, steps=4)
    for plain, other in (
        ("imaml(lam=2.0)", "imaml(lam=2.0, solver='nystrom', rank=3)"),
        ("mixed", "mixed(weights='maml++', progress=0.5)"),
    ):
        create(plain, compiled=True)(*arguments)
        before = [*made]
        assert_same(create(other, compiled=True)(*arguments), create(other)(*arguments))
        assert made == before


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
@pytest.mark.parametrize("spec", ["maml", "binom(order=1)", "fomaml"])
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


@pytest.mark.xfail(
    torch.__version__ < "2.15", strict=True, reason="the factor is lost, mended in torch 2.15"
)
def test_inductor_keeps_the_factor_of_a_matrix_product() -> None:
    x = torch.eye(8)
    compiled: Tensor = torch.compile(lambda y, z: torch.add(y, y @ z, alpha=0.5))(x, x)
    torch.testing.assert_close(compiled, 1.5 * x)


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


@pytest.mark.usefixtures("traced")
def test_what_a_loss_computes_with_is_seen_as_it_is_at_each_call() -> None:
    class Weighted(nn.Module):
        scale = 1.0  # of the class

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1).double()
            self.factor = 1.0
            self.settings = SimpleNamespace(size=1.0)

        def forward(self, x: Tensor) -> Tensor:
            factor = self.factor * self.scale * TABLE["number"] * self.settings.size
            result: Tensor = self.linear(x) * factor
            return result

    penalty, weight = [0.1], torch.tensor(1.0, dtype=torch.float64)
    module = Weighted()
    source = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, n, generator=source, dtype=torch.float64) for n in (2, 1))
    batch = (x, y)

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs, targets) * weight + penalty[0] * outputs.square().mean()

    def check() -> None:
        problem = module_problem(module, criterion, batch, batch, step_size=0.1, steps=2)
        params = trainable(module)
        assert_same(create("maml(compiled=True)")(problem, params), create("maml")(problem, params))

    check()
    for change in (
        lambda: setattr(module, "factor", 2.0),
        lambda: setattr(Weighted, "scale", 3.0),
        lambda: setattr(module.settings, "size", 0.5),
        lambda: penalty.__setitem__(0, 0.7),
        lambda: weight.fill_(0.5),
        lambda: TABLE.update(number=1.5),
        lambda: module.linear.bias.requires_grad_(False),
        lambda: module.linear.bias.data.fill_(2.0),
        lambda: module.register_forward_hook(lambda _module, _inputs, outputs: outputs * 2),
    ):
        change()
        check()


TABLE = {"number": 1.0}


@pytest.mark.usefixtures("traced")
def test_losses_that_no_program_can_be_made_of_are_refused() -> None:
    hidden = iter([torch.ones(3)] * 100)
    for loss in (
        lambda p: p["w"].square().sum() if p["w"].sum() > 0 else p["w"].sum(),  # decides on values
        lambda p: (p["w"] * float(p["w"].sum())).sum(),
        lambda p: (p["w"] * next(hidden)).sum(),  # a tensor that is found nowhere
    ):
        with pytest.raises(OptionError, match="compiled"):
            create("maml(compiled=True)")(BilevelProblem(loss, loss, 0.1, 1), {"w": torch.ones(3)})
    params = {"w": torch.ones(3), "b": torch.ones(3).double()}
    with pytest.raises(OptionError, match="dtype"):
        create("maml(compiled=True)")(BilevelProblem(norm, norm, 0.1, 1), params)


def norm(params: Params) -> Tensor:
    return torch.stack([value.float().square().sum() for value in params.values()]).sum()


@pytest.mark.usefixtures("traced")
def test_one_tensor_in_two_roles_is_not_taken_for_one_input() -> None:
    module = nn.Linear(2, 2).double()
    one = torch.randn(3, 2, generator=torch.Generator().manual_seed(1)).double()
    other, third = one.flip(0), one * 2
    compiled, eager = create("maml(compiled=True)"), create("maml")
    for support, query in (((one, one), (one, one)), ((one, other), (third, one))):
        problem = module_problem(module, mse_loss, support, query, step_size=0.1, steps=2)
        assert_same(compiled(problem, trainable(module)), eager(problem, trainable(module)))


def test_programs_that_differ_are_told_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(problem: Any, *_: Any) -> Any:
        def run(given: list[Tensor]) -> list[Tensor]:
            state = given[0]
            return [state.sum(), state, state.repeat(problem.steps, 1), state, state]

        return Executable(run, [], 0.0)

    monkeypatch.setattr(making, "make", wrong)
    problem, params = regression(3)
    compiled = create("maml(compiled=True)")
    with pytest.warns(UserWarning, match="not used"):
        assert_same(compiled(problem, params), create("maml")(problem, params))
    assert_same(compiled(problem, params), create("maml")(problem, params))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("spec", "momentum", "is_wrong"),
    [
        ("maml", 0.5, lambda form: form.momentum),
        ("binom(order=2)", 0.0, lambda form: form.levels == 2),
    ],
)
def test_each_program_that_an_estimate_may_run_is_compared(
    spec: str, momentum: float, is_wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some_wrong(problem: Any, held: Any, form: Any, *rest: Any) -> Executable:
        made = make(problem, held, form, *rest)
        return made._replace(
            run=lambda given: (
                [2 * x for x in made.run(given)] if is_wrong(form) else made.run(given)
            )
        )

    make = making.make
    monkeypatch.setattr(making, "make", some_wrong)
    problem, params = regression(3)
    create(spec, compiled=True)(problem, params)
    problem = replace(problem, momentum=momentum, steps=4)
    with pytest.warns(UserWarning, match="not used"):
        assert_same(create(spec, compiled=True)(problem, params), create(spec)(problem, params))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", COMPILABLE)
def test_results_share_no_memory_with_parameters(name: str) -> None:
    problem, params = regression(3)
    result = create(name, compiled=True, **OPTIONS.get(name, {}))(problem, params)
    own = {value.untyped_storage().data_ptr() for value in params.values()}
    assert not own & {value.untyped_storage().data_ptr() for value in tensors(result)}


def test_torch_exports_whatever_precision_was_set() -> None:
    """As the harness sets it: TF32 nowhere."""
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision  # "none" after some other flags
    try:
        with making.readable_precision():
            torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),), strict=False)
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == before
    finally:
        cudnn.allow_tf32 = True  # torch's default


def test_programs_are_kept_on_disk_and_made_anew_where_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: list[str]
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("METAGRAD_CACHE", str(folder))
    problem, params = regression(3)

    def product() -> Params:
        compiled._known.clear()
        of_kind = CompiledProblem.of(problem, params)
        return of_kind.product(torch.ones(12, dtype=torch.float64), params)

    expected = product()
    assert relative_error(product(), flatten(expected)) == 0
    assert made == ["product"]
    assert compiled.compile_seconds(problem, params) > 0
    (path,) = folder.rglob("*.so")
    content = path.read_bytes()
    path.unlink()  # the file is in use
    path.write_bytes(content[:-100])
    with pytest.warns(UserWarning, match="compiled anew"):
        assert relative_error(product(), flatten(expected)) == 0
    assert made == ["product", "product"]
    assert relative_error(product(), flatten(expected)) == 0
    assert len([*folder.rglob("*.so")]) == 1


def test_cuda_graphs_are_launched_with_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """By stand-ins: a graph that repeats what ran while it was captured."""
    ran: list[str] = []

    class Graph:
        def replay(self) -> None:
            ran.append("replay")
            for result, value in zip(results, program(given), strict=True):
                result.copy_(value)

    given: list[Tensor] = []
    results: list[Tensor] = []

    def program(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0] * 2]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        if len(tensors) > 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        ran.append("run")
        given[:], results[:] = tensors, program(tensors)
        return [*results]

    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    launched = Launched(run)
    first = launched([torch.ones(2)])
    second = launched([torch.full((2,), 5.0)])
    assert ran == ["run", "run", "replay", "replay"]
    assert first[0].tolist() == [2.0, 2.0]
    assert second[0].tolist() == [10.0, 10.0]
    with pytest.raises(RuntimeError, match="capturing"):  # its own error, from an uncaptured run
        launched([torch.ones(2), torch.ones(2)])


@pytest.mark.slow
def test_scales_of_sums_with_matrix_products_are_not_forgotten() -> None:
    """Inductor before 2.15 forgets alpha of add(x, y @ z, alpha=...)."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(40, 40, generator=source, dtype=torch.float64)

    def loss(params: Params) -> Tensor:
        return torch.add(params["w"], x @ params["w"], alpha=0.01).tanh().square().sum()

    problem = BilevelProblem(loss, loss, step_size=0.01, steps=3)
    params = {"w": torch.randn(40, 40, generator=source, dtype=torch.float64)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "maml: its compiled program differs")
        assert_same(create("maml(compiled=True)")(problem, params), create("maml")(problem, params))
