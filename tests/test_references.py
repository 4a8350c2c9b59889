"""What cells are scored against: right, cached, and never stale."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import create
from estimators.hvp import count_hvps
from harness.cell import Cell
from harness.matrix.outcome import Diverged
from harness.matrix.problems import bilevel_problem, checkpoint
from harness.models.mlp import Mlp
from harness.probes import references
from harness.probes.references import Reference, load_reference, save_reference
from harness.tasks.sinusoid import Sinusoid
from harness.tasks.task import Task

CELL = Cell.of(
    estimator="maml", task="sinusoid", model="mlp-40-40(init='torch')", depth=2, num_tasks=3
)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of its files."""
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    checkpoint.cache_clear()
    return tmp_path / "cache" / "tensors"


def taken(cell: Cell, path: Path) -> tuple[Reference, int]:
    """The reference, and how many Hessian-vector products it took."""
    with count_hvps() as counter:
        save_reference(cell.group, path)
    return load_reference(path, "cpu"), counter.products


def same(one: Reference, other: Reference) -> bool:
    """Whether two references are equal to the bit."""
    return one.curvature == other.curvature and all(
        list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one.gradients, other.gradients, strict=True)
    )


def test_gradients_and_curvature_are_exact(tmp_path: Path) -> None:
    cell = Cell.of(estimator="maml", task="quadratic", model="linear", depth=3, num_tasks=2)
    reference, _ = taken(cell, tmp_path / "exact.pt")
    assert len(reference.gradients) == len(reference.curvature) == 2
    assert reference.curvature == pytest.approx([0.02 * 10] * 2, rel=0.01)
    for index, gradient in enumerate(reference.gradients):
        problem, theta = bilevel_problem(cell, index, dtype=torch.float64, device="cpu")
        expected = create("maml")(problem, theta).gradient
        assert gradient["1.weight"].dtype == torch.float64
        torch.testing.assert_close(gradient, expected)

    # Of a trained cell it is taken where training led.
    cell = replace(CELL, trained=2)
    reference, _ = taken(cell, tmp_path / "trained.pt")
    problem, theta = bilevel_problem(cell, 0, dtype=torch.float64, device="cpu")
    _, start = bilevel_problem(CELL, 0, dtype=torch.float64, device="cpu")
    assert all(not torch.equal(theta[name], start[name]) for name in theta)
    torch.testing.assert_close(reference.gradients[0], create("maml")(problem, theta).gradient)
    assert np.isfinite(reference.curvature).all()


def test_second_time_takes_no_product_and_is_the_same(tmp_path: Path, store: Path) -> None:
    for trained, dtype in ((0, "float64"), (2, "float32")):
        cell = replace(CELL, trained=trained)
        first, products = taken(cell, tmp_path / "first.pt")
        assert products > 3 * 2
        other_kind = replace(cell, estimator="fomaml", dtype=dtype)
        again, products = taken(other_kind, tmp_path / "again.pt")
        assert products == 0
        assert same(first, again)
        for file in store.iterdir():  # eviction leaves the files of a run
            file.unlink()
        assert same(first, load_reference(tmp_path / "first.pt", "cpu"))


def test_another_group_is_computed(tmp_path: Path) -> None:
    first, _ = taken(CELL, tmp_path / "first.pt")
    changes: list[dict[str, Any]] = [
        *({"task": "sinusoid(shots=9)"}, {"model": "mlp-40-40"}, {"depth": 3}, {"num_tasks": 4}),
        *({"model": "mlp-100-100(init='torch')"}, {"step_size": 0.011}, {"seed": 1}),
        *({"trained": 1}, {"trained": 2}),
    ]
    for change in changes:
        other, products = taken(replace(CELL, **change), tmp_path / "other.pt")
        assert products > 0, change
        assert len(other.gradients) > 3 or not same(first, other), change


def other_loss(patch: pytest.MonkeyPatch) -> None:
    usual = Sinusoid.loss

    def loss(self: Sinusoid, outputs: Tensor, targets: Tensor) -> Tensor:
        return usual(self, outputs, targets) * (1 + 1e-15)

    patch.setattr(Sinusoid, "loss", loss)


def other_query_of_the_last_task(patch: pytest.MonkeyPatch) -> None:
    usual = Sinusoid.sample

    def sample(self: Sinusoid, seed: int, split: str = "train") -> Task:
        task = usual(self, seed, split)
        if seed == 2:
            task.query[1][-1] += 1e-9
        return task

    patch.setattr(Sinusoid, "sample", sample)


def other_activation(patch: pytest.MonkeyPatch) -> None:
    usual = Mlp.module

    def module(self: Mlp, family: Any) -> nn.Module:
        layers = usual(self, family)
        assert isinstance(layers, nn.Sequential)
        return nn.Sequential(*(nn.ELU() if isinstance(x, nn.ReLU) else x for x in layers))

    patch.setattr(Mlp, "module", module)


def other_theta(patch: pytest.MonkeyPatch) -> None:
    usual = Mlp.module

    def module(self: Mlp, family: Any) -> nn.Module:
        layers = usual(self, family)
        with torch.no_grad():
            next(layers.parameters())[0] *= 1 + 1e-6
        return layers

    patch.setattr(Mlp, "module", module)


def other_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "__version__", "99.0")


def other_code(patch: pytest.MonkeyPatch) -> None:
    names = {source.name for source in references._SOURCES}
    assert names == {
        *("estimators", "curvature.py", "draws.py", "enumeration.py", "references.py"),
        "second_truth.py",
    }
    patch.setattr(references, "_SOURCES", (*references._SOURCES, Path(__file__)))


def test_a_change_behind_the_same_name_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = taken(CELL, tmp_path / "first.pt")
    moving = (other_loss, other_query_of_the_last_task, other_activation, other_theta)
    for change in (*moving, other_torch, other_code):
        with monkeypatch.context() as patch:
            change(patch)
            other, products = taken(CELL, tmp_path / "other.pt")
            assert products > 0, change
            assert same(first, other) == (change not in moving), change
        assert taken(CELL, tmp_path / "again.pt")[1] == 0, change


def test_broken_file_is_computed_anew(tmp_path: Path, store: Path) -> None:
    first, products = taken(CELL, tmp_path / "first.pt")
    (file,) = store.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    again, more = taken(CELL, tmp_path / "again.pt")
    assert more == products
    assert same(first, again)
    assert taken(CELL, tmp_path / "third.pt")[1] == 0


IN_A_PROCESS_OF_ITS_OWN = """
import sys
from pathlib import Path
from harness.cell import Cell
from harness.probes.references import save_reference
save_reference(Cell.parse(sys.argv[1]), Path(sys.argv[2]))
"""


def test_processes_and_the_lack_of_a_cache_make_no_difference(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = replace(CELL, trained=3)
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, cell.id, str(tmp_path / "there.pt")]
    subprocess.run(command, check=True)
    there = load_reference(tmp_path / "there.pt", "cpu")
    cached, products = taken(cell, tmp_path / "cached.pt")
    assert products == 0  # neither the chain nor the reference
    assert same(there, cached)
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "file"))
    checkpoint.cache_clear()
    computed, products = taken(cell, tmp_path / "computed.pt")
    assert products > 0
    assert same(there, computed)


def test_reference_that_is_not_finite_has_diverged(tmp_path: Path, store: Path) -> None:
    wild = Cell.of(
        estimator="maml", task="quadratic(drift=10)", model="linear", depth=20, step_size=5.0
    )
    with pytest.raises(Diverged, match="the exact meta-gradient of task 0 is not finite"):
        save_reference(wild.group, tmp_path / "exact.pt")
    assert not (tmp_path / "exact.pt").exists()
    assert not store.exists()
