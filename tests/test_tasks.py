"""Task families: closed forms, ranges, and draws that stay the same."""

import hashlib
import math
import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from estimators import BilevelProblem, OptionError, Params, create
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.models import MODELS
from harness.tasks import TASKS
from harness.tasks.glyphs import Glyphs
from harness.tasks.quadratic import Quadratic
from harness.tasks.sinusoid import Sinusoid
from harness.tasks.task import uniform

WEIGHT = "1.weight"
DRAWS = "515175032568867a2a8d7fa146b4b7bc2222a9df0773d24749a3b76504415fed"
SINUSOID = "e6a5448a91e71f520daa6438eac611ff511e40253507a9755b4fd46135fd68b3"
SINUSOID_TARGET = 2.4100696901456637
QUADRATIC = "fca36181fc50c396046264fdfd8f307c7b933e26c91e0adeb3e443ea770d6e34"
QUADRATIC_INPUT = -0.2758401147043239


def quadratic_problem(task: str, depth: int) -> tuple[BilevelProblem, Params]:
    cell = Cell.of(estimator="maml", task=task, model="linear", depth=depth)
    return bilevel_problem(cell, 0, dtype=torch.float64, device="cpu")


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def exact_meta_gradient(
    family: Quadratic, weight: NDArray[np.float64], steps: int
) -> NDArray[np.float64]:
    """The meta-gradient by the recursion on coordinates; no differentiation."""
    task = family.sample(seed=0)
    q = task.support[0].numpy().T
    inner, outer = (batch[1].numpy()[:, 0] for batch in (task.support, task.query))
    eigenvalues, drift = family.eigenvalues, family.drift
    z = q.T @ weight
    shrinkage = np.ones_like(z)
    for _ in range(steps):
        apart = z - inner
        shrinkage *= 1 - family.step_size * (eigenvalues + 3 * drift * apart**2)
        z = z - family.step_size * (eigenvalues * apart + drift * apart**3)
    apart = z - outer
    return np.asarray(q @ (shrinkage * (eigenvalues * apart + drift * apart**3)))


def test_quadratic_has_the_closed_form_meta_gradient() -> None:
    for drift in (0.0, 0.5, 3.0):
        family = Quadratic(dimension=7, drift=drift)
        for steps in (0, 1, 2, 5, 20):
            problem, params = quadratic_problem(f"quadratic(dimension=7, drift={drift})", steps)
            gradient = create("maml")(problem, params).gradient[WEIGHT].numpy()[0]
            exact = exact_meta_gradient(family, params[WEIGHT].numpy()[0], steps)
            error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
            assert error <= 1e-12, (drift, steps)


def test_quadratic_has_the_eigenvalues_of_its_options() -> None:
    problem, params = quadratic_problem("quadratic(dimension=5, smallest=0.5, largest=8.0)", 3)
    hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda weight: problem.inner_loss({WEIGHT: weight}), params[WEIGHT].detach()
    )
    eigenvalues = torch.linalg.eigvalsh(hessian.reshape(5, 5))
    np.testing.assert_allclose(eigenvalues.numpy(), [0.5, 1.0, 2.0, 4.0, 8.0], rtol=1e-12)


def sine_of(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[float, float, float]:
    """Fits y = a sin x + b cos x; returns amplitude, phase and the worst residual."""
    x, y = inputs.numpy()[:, 0], targets.numpy()[:, 0]
    columns = np.stack([np.sin(x), np.cos(x)], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, y, rcond=None)
    return math.hypot(a, b), math.atan2(-b, a), float(np.abs(columns @ (a, b) - y).max())


def test_sinusoid_support_and_query_are_of_one_sine_within_its_ranges() -> None:
    fits = []
    for seed in range(200):
        task = Sinusoid(shots=10, queries=30).sample(seed)
        assert task.support[0].shape == (10, 1)
        assert task.query[1].shape == (30, 1)
        amplitude, phase, residual = sine_of(*task.support)
        assert residual < 1e-12, seed
        assert 0.1 <= amplitude <= 5, seed
        assert 0 <= phase <= math.pi, seed
        assert sine_of(*task.query) == pytest.approx((amplitude, phase, 0), abs=1e-9), seed
        inputs = torch.cat([task.support[0], task.query[0]])
        assert inputs.dtype == torch.float64
        assert -5 <= float(inputs.min()) < float(inputs.max()) <= 5, seed
        assert len(set(inputs.flatten().tolist())) == 40, seed
        fits.append((amplitude, phase))
    amplitudes, phases = zip(*fits, strict=True)
    assert min(amplitudes) < 0.4 < 4.7 < max(amplitudes)
    assert min(phases) < 0.2 < 2.9 < max(phases)


def test_sinusoids_of_another_test_distribution() -> None:
    plain, shifted = Sinusoid(), Sinusoid(test_scale=3.0)
    for split, factor in (("train", 1.0), ("validation", 1.0), ("test", 3.0)):
        (x, y), (u, v) = plain.sample(4, split).query, shifted.sample(4, split).query
        assert torch.equal(x, u)
        torch.testing.assert_close(v, factor * y)
    with pytest.raises(OptionError, match="test_scale=0"):
        Sinusoid(test_scale=0.0)


def test_a_seed_names_a_task() -> None:
    for name in ("sinusoid", "quadratic", "glyphs:5way-1shot", "noise"):
        family = TASKS.create(name)
        once, again, other, test = (
            digest(*task.support, *task.query)
            for task in (
                family.sample(1),
                family.sample(1),
                family.sample(2),
                family.sample(1, "test"),
            )
        )
        assert once == again, name
        assert once not in (other, test), name


def test_tasks_of_a_cell_and_of_its_seeds_are_apart() -> None:
    def inputs(seed: int, index: int) -> str:
        cell = Cell.of(estimator="maml", task="sinusoid", model="linear", depth=1, seed=seed)
        problem, _ = bilevel_problem(cell, index, dtype=torch.float64, device="cpu")
        return digest(problem.inner_loss.batch[0])  # type: ignore[attr-defined]

    assert len({inputs(seed, index) for seed in range(3) for index in range(8)}) == 24


def test_tasks_are_the_same_for_ever() -> None:
    assert hashlib.sha256(uniform((7, 1), 1000).tobytes()).hexdigest() == DRAWS
    sinusoid, quadratic = Sinusoid().sample(0), Quadratic(dimension=4).sample(0)
    assert digest(sinusoid.support[0], sinusoid.query[0]) == SINUSOID
    assert digest(quadratic.support[1], quadratic.query[1]) == QUADRATIC
    # Sines and orthogonal factors may differ in their last bits between mathematical libraries.
    assert float(sinusoid.support[1][0, 0]) == pytest.approx(SINUSOID_TARGET, rel=1e-12)
    assert float(quadratic.support[0][0, 0]) == pytest.approx(QUADRATIC_INPUT, rel=1e-12)


def test_wrong_names_and_options_are_refused() -> None:
    for text, message in (
        ("sinusoid(shots=0)", "sinusoid: shots=0 and queries=10"),
        ("sinusoid(queries=-3)", "queries=-3"),
        ("sinusoid(shots=1.5)", "sinusoid: shots=1.5"),
        ("sinusoid(shot=5)", "sinusoid: unknown option 'shot'; did you mean shots?"),
        ("quadratic(dimension=0)", "quadratic: dimension=0"),
        ("quadratic(smallest=0)", "smallest=0.0 and largest=10.0"),
        ("quadratic(smallest=2, largest=1)", "smallest=2.0 and largest=1.0"),
        ("quadratic(drift=-1)", "quadratic: drift=-1.0"),
        ("noise(size=0)", "noise: size=0"),
        ("images", "images: option 'folder' is missing"),
        ("images(folder='tree', size=0)", "images: size=0"),
        ("images(folder='tree', channels=2)", "images: channels=2"),
        ("images(folder='tree', ways=1)", "images: ways=1"),
        ("images(folder='tree', shots=0)", "images: shots=0"),
        ("omniglot(queries=0)", "omniglot: queries=0"),
        ("omniglot(split='lake')", "omniglot: split='lake'"),
        ("digits(ways=4)", "digits: ways=4"),
        ("miniimagenet(folder=3)", "miniimagenet: folder=3"),
        ("glyphs(held_out='fonts')", "held_out='fonts'"),
        ("glyphs(ways=60)", "59 classes of the validation split"),
        ("glyphs(shots=6)", "20 images, and shots=6 and queries=15"),
        ("glyphs(jitter=-0.5)", "jitter=-0.5"),
        ("glyphs(jitter=nan)", "jitter=nan"),
        ("sinusoids", "unknown task 'sinusoids'; did you mean sinusoid?"),
    ):
        with pytest.raises(OptionError, match=re.escape(message)):
            TASKS.create(text)
    for text, message in (
        ("mlp-40-40(init='glorot')", "mlp: init='glorot'"),
        ("mlp-40-40(hidden=3)", "mlp-40-40: unknown option 'hidden'"),
        ("conv4", "unknown model 'conv4'; did you mean conv4-"),
    ):
        with pytest.raises(OptionError, match=message):
            MODELS.create(text)
    with pytest.raises(OptionError, match="split='exam'"):
        Glyphs().sample(0, "exam")
    with pytest.raises(OptionError, match="seed=-1"):
        Glyphs().sample(-1)
