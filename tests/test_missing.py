"""What cannot be measured is missing, with a note that says why; all else is measured."""

import errno
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode

from harness.cell import Cell
from harness.matrix.metrics import Samples
from harness.matrix.notes import not_measured, sorted_notes
from harness.matrix.outcome import Diverged
from harness.models import MODELS, Model
from harness.probes import curvature
from harness.probes.references import load_reference, save_reference
from harness.running.measures import score
from harness.store.trainings import trainings
from harness.training.config import TrainingConfig
from harness.training.parallel import train_one

OF_REFERENCE = {"bias", "cosine_distance", "batch_bias", "curvature"}


class Layers(nn.Module):
    """Two linear layers, with something in between that makes trouble."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(1, 8), between, nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.between(self.first(inputs)))
        return outputs


def in_float32(hidden: Tensor) -> Tensor:
    return hidden @ torch.eye(8, dtype=torch.float32)


def unwatched(hidden: Tensor) -> Tensor:
    if _get_current_dispatch_mode() is not None:
        raise NotImplementedError("nobody may look; it is private")
    return torch.tanh(hidden)


def attention(hidden: Tensor) -> Tensor:
    heads = hidden.view(1, 1, -1, 8)
    return hidden + functional.scaled_dot_product_attention(heads, heads, heads).view(-1, 8)


def warned(hidden: Tensor) -> Tensor:
    warnings.warn("mind; the gap", stacklevel=1)
    return torch.tanh(hidden)


MIDDLES: dict[str, Callable[[Tensor], Tensor]] = {
    **{"hardsigmoid": functional.hardsigmoid, "float32": in_float32, "unwatched": unwatched},
    **{"attention": attention, "warned": warned},
}


@dataclass(frozen=True)
class Made(Model):
    """The model of these tests."""

    between: str

    def module(self, family: Any) -> nn.Module:
        return Layers(MIDDLES[self.between])


@pytest.fixture(autouse=True)
def registered() -> None:
    """Register the model, until the end of a test."""
    MODELS.register("layers")(Made)


def cell_of(between: str, estimator: str = "fomaml", depth: int = 2) -> Cell:
    axes: dict[str, Any] = {"task": "sinusoid", "model": f"layers(between='{between}')"}
    return Cell.of(estimator=estimator, depth=depth, num_tasks=2, **axes)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    gc.freeze()  # as in a worker: probes collect garbage
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))

    def measure(*setting: Any) -> tuple[Samples, list[str]]:
        cell = cell_of(*setting)
        save_reference(cell.group, tmp_path / "exact.pt")
        return score(cell, tmp_path / "exact.pt")

    yield measure
    gc.unfreeze()


def test_estimates_without_an_exact_gradient_are_measured(measured: Callable[..., Any]) -> None:
    for between in ("hardsigmoid", "float32"):
        samples, (note,) = measured(between)
        assert note.startswith("bias not measured: "), between
        assert not samples.keys() & OF_REFERENCE, between
        assert samples.keys() >= {"peak_memory", "flops", "launches", "hvps"}, between
        assert all(samples.values()), between
        # The outer loss needs no reference, but float64.
        assert ("outer_loss" in samples) == (between != "float32"), between
    assert measured("float32", "maml")[0]["hvps"] == [2]


def test_an_estimate_that_fails_without_a_probe_fails_the_cell(
    measured: Callable[..., Any],
) -> None:
    with pytest.raises((RuntimeError, ValueError), match="hardsigmoid"):
        measured("hardsigmoid", "maml")


def test_references_go_through_attention(measured: Callable[..., Any]) -> None:
    samples, notes = measured("attention", "hf-maml")
    assert not notes
    assert 0 < max(samples["bias"]) < 1e-4
    assert samples.keys() >= OF_REFERENCE


def test_curvature_alone_may_be_missing(
    measured: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without inner steps the exact gradient takes no second derivative.
    samples, (note,) = measured("hardsigmoid", "maml", 0)
    assert "alpha lambda_max not measured" in note
    assert not samples.keys() & {"curvature", "bound"}
    assert samples["bias"] == [0.0, 0.0]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(curvature, "largest_curvature", full)
    with pytest.raises(OSError, match="no space"):
        measured("hardsigmoid", "maml", 0)
    assert load_reference(tmp_path / "exact.pt", "cpu").gradients  # of the first time


def test_probes_that_fail_are_noted_and_end_nothing(measured: Callable[..., Any]) -> None:
    samples, notes = measured("unwatched")
    assert samples.keys() >= {"bias", "curvature", "hvps", "resident_memory"}
    assert not samples.keys() & {"peak_memory", "flops", "launches"}
    assert [note.partition(" not measured: ")[0] for note in notes] == [
        *("peak memory", "FLOPs", "operator launches")
    ]
    assert all("nobody may look, it is private" in note for note in notes)


def test_what_is_more_than_a_missing_metric_is_raised() -> None:
    ends: list[Exception] = [Diverged("no number"), MemoryError("1 PiB")]
    ends += [OSError(errno.ENOSPC, "full"), RuntimeError("CUDA out of memory")]
    for error in ends:
        with pytest.raises(type(error)):
            not_measured("bias", error)


def test_warnings_are_notes_each_once(measured: Callable[..., Any]) -> None:
    _, notes = measured("warned")
    assert notes == ["warning: mind, the gap"]
    assert sorted_notes(["; ".join([*notes, "samples drifted"])]) == (
        ["samples drifted"],
        {notes[0]: 1},
    )


def test_trainings_go_on_without_what_cannot_be_measured(tmp_path: Path) -> None:
    short: dict[str, Any] = {"steps": 1, "validate_every": 1, "validation_tasks": 1}
    short |= {"test_tasks": 2, "bias_every": 1, "bias_tasks": 1}
    missing = {"hardsigmoid": {"bias"}, "unwatched": {"peak_memory"}, "attention": set()}
    for between, metrics in missing.items():
        result = train_one(tmp_path, TrainingConfig(cell_of(between), **short), (), True, True)
        assert result.test, between
        table, _ = trainings(tmp_path)
        ours = table[table["training"] == result.name.removesuffix(".jsonl")]
        assert {"bias", "peak_memory"} - set(ours["metric"]) == metrics, between
        (message,) = result.messages  # one is torch's own
        assert message.startswith("warning: ") != (" not measured: " in message), between
