"""The digits that come with scikit-learn, as few-shot tasks."""

import subprocess
import sys

import torch
from sklearn.datasets import load_digits

from estimators import create
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.tasks.digits import Digits


def test_digits_are_those_of_scikit_learn() -> None:
    digits = load_digits()
    pairs = zip(digits.data.astype(int).tolist(), digits.target.tolist(), strict=True)
    known = {tuple(image): label for image, label in pairs}
    splits = {"train": {0, 1, 2, 3}, "validation": {4, 5, 6}, "test": {7, 8, 9}}
    for split, allowed in splits.items():
        for seed in range(3):
            inputs, targets = Digits(queries=10).sample(seed, split).query
            assert inputs.shape == (30, 1, 16, 16)
            small = inputs[:, :, ::2, ::2]
            assert torch.equal(inputs, small.repeat_interleave(2, 2).repeat_interleave(2, 3))
            labels = [known[tuple(image)] for image in (16 * small).int().flatten(1).tolist()]
            assert {*labels} <= allowed
            assert len({*zip(labels, targets.tolist(), strict=True)}) == 3


def test_an_estimate_on_digits() -> None:
    cell = Cell.of(estimator="fomaml", task="digits:3way-1shot", model="conv4-16", depth=2)
    assert cell.task == "digits:3way-1shot"
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    found = create(cell.estimator)(problem, params)
    assert all(torch.isfinite(gradient).all() for gradient in found.gradient.values())
    assert any(gradient.abs().max() > 0 for gradient in found.gradient.values())


def test_scikit_learn_is_imported_only_to_draw_tasks() -> None:
    code = (
        "import sys; from harness.tasks import TASKS; family = TASKS.create('digits'); "
        "assert 'sklearn' not in sys.modules; family.sample(0); assert 'sklearn' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
