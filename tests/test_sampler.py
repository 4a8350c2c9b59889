"""The data of tasks as models get them: in the cell's dtype, but for whole numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import create
from estimators.base.estimator import MetaGradient
from harness.cell import Cell
from harness.matrix.problems import Sampler, bilevel_problem
from harness.models import MODELS, Model
from harness.tasks import TASKS, Task, TaskFamily
from harness.training.evaluation import evaluate

GIVEN = {
    "tokens": torch.arange(10).reshape(5, 2) + 2**24 + 1,  # float32 has no odd numbers there
    "mask": torch.tensor([[True, False]]).expand(5, 2),
    "waves": torch.ones(5, 2, dtype=torch.complex128),
    "numbers": torch.linspace(0, 1, 5, dtype=torch.float64),
}
CLASSES = torch.arange(5) % 2


@dataclass(frozen=True)
class Mixed(TaskFamily):
    """A task whose inputs are of all kinds."""

    step_size = 0.1
    input_shape = ()
    outputs = 2

    def sample(self, seed: int, split: str = "train") -> Task:
        batch: Any = (GIVEN, CLASSES)
        return Task(batch, batch)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)


class Words(nn.Module):
    """Embeddings of tokens, masked, in phase with a buffer of complex numbers."""

    phase: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 3), nn.Linear(3, 2)
        self.register_buffer("phase", torch.full((2,), 1j))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        hidden = self.words(inputs["tokens"] - 2**24 - 1) * inputs["mask"][..., None]
        wave = (inputs["waves"] * self.phase).imag.sum(1) + inputs["numbers"]
        outputs: Tensor = self.head(torch.tanh(hidden.sum(1) * wave[:, None]))
        return outputs


@dataclass(frozen=True)
class Made(Model):
    """A model of `Words`."""

    def module(self, family: Any) -> nn.Module:
        return Words()


@pytest.fixture
def cell() -> Cell:
    TASKS.register("mixed-inputs")(Mixed)
    MODELS.register("words")(Made)
    return Cell.of(estimator="maml", task="mixed-inputs", model="words", depth=2)


def test_only_floating_point_numbers_change_their_type(cell: Cell) -> None:
    for dtype, complex_dtype in (
        (torch.float32, torch.complex64),
        (torch.float64, torch.complex128),
    ):
        sampler = Sampler.of(cell, dtype=dtype, device="cpu")
        inputs: Any
        loss: Any = sampler.problem(0).outer_loss
        inputs, targets = loss.batch
        types = {name: value.dtype for name, value in inputs.items()}
        kept = {"tokens": torch.int64, "mask": torch.bool}
        assert types == kept | {"waves": complex_dtype, "numbers": dtype}
        assert torch.equal(inputs["tokens"], GIVEN["tokens"])
        assert torch.equal(targets, CLASSES)
        # A family may use its tensors for the next task.
        mine = [*GIVEN.values(), CLASSES]
        theirs = [*inputs.values(), targets]
        assert not {t.data_ptr() for t in mine} & {t.data_ptr() for t in theirs}
        assert sampler.module.get_buffer("phase").dtype == complex_dtype
        assert sampler.module.get_buffer("phase").imag.tolist() == [1.0, 1.0]


def test_problems_of_nested_inputs_are_estimated_and_evaluated(cell: Cell) -> None:
    sampler = Sampler.of(cell, dtype=torch.float64, device="cpu", check=True)
    problems = [sampler.problem(index) for index in range(3)]
    one, two = (create(name)(problems[0], sampler.params) for name in ("maml", "adjoint"))
    torch.testing.assert_close(one.gradient, two.gradient)
    loop, at_once = (evaluate(problems, sampler.params, how) for how in ("loop", "vmap"))
    assert loop.keys() == {"outer_loss", "accuracy"}
    assert at_once == {name: pytest.approx(values) for name, values in loop.items()}


def test_accuracy_needs_a_row_of_outputs_for_each_target(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mixed, "loss", lambda _, outputs, targets: outputs.square().mean())
    batch: Any = (GIVEN, CLASSES[:2])
    monkeypatch.setattr(Mixed, "sample", lambda *_: Task(batch, batch))
    sampler = Sampler.of(cell, dtype=torch.float64, device="cpu")
    assert evaluate([sampler.problem(0)], sampler.params, "loop").keys() == {"outer_loss"}


@pytest.fixture
def other_defaults() -> Iterator[None]:
    """Set defaults of torch with which nothing could be computed; until the end of a test."""
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


SETTINGS = (
    *(("sinusoid", "mlp-40-40"), ("quadratic", "linear"), ("glyphs:5way-1shot", "conv4-16")),
    *(("noise(size=16)", "conv4-16"),),
)


def estimates() -> list[MetaGradient]:
    found = []
    for task, model in SETTINGS:
        cell = Cell.of(estimator="adjoint", task=task, model=model, depth=1)
        problem, theta = bilevel_problem(cell, 3, dtype=torch.float32, device="cpu")
        found.append(create("adjoint")(problem, theta))
    return found


USUAL = estimates()


@pytest.mark.usefixtures("other_defaults")
def test_defaults_of_torch_make_no_difference() -> None:
    for usual, other in zip(USUAL, estimates(), strict=True):
        for name, value in usual.gradient.items():
            assert torch.equal(value, other.gradient[name])
        assert torch.equal(usual.outer_loss, other.outer_loss)
