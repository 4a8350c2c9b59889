"""Steps of meta-training a second, beside a plain loop: `python -m tests.perf.training_speed`.

The plain loop is exact MAML as one would write it: functional_call, autograd through the unrolled
inner loop, a task after the other, float32, Adam; its tasks are drawn as the harness draws them.
Rounds of both are taken in turns; the figure is the median of the ratios.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.func import functional_call

from harness.cell import Cell
from harness.matrix.problems import Sampler
from harness.training.config import TrainingConfig
from harness.training.session import begin
from harness.training.trainer import Trainer
from tests.support.trainings import Weights, trained

ESTIMATORS = ("maml", "fomaml", "binom(order=1)", "binom(order=2)")
COMPILED = ("maml(compiled=True)", "fomaml(compiled=True)", "binom(order=1, compiled=True)")
SETTINGS = {
    "sinusoid": ("mlp-40-40", 40, ESTIMATORS + COMPILED),
    "glyphs:5way-1shot": ("conv4-32", 4, ESTIMATORS + COMPILED),
}
ROUNDS = 7
Work = Callable[[int], None]


def by_hand(cell: Cell) -> Work:
    """Return a function that takes so many steps of the plain loop."""
    module = Sampler.of(cell, dtype=torch.float32, device="cpu").module
    names = [name for name, _ in module.named_parameters()]

    def forward(weights: Weights, inputs: torch.Tensor) -> torch.Tensor:
        return functional_call(module, dict(zip(names, weights, strict=True)), (inputs,))  # type: ignore[no-any-return]

    def steps(count: int) -> None:
        trained(forward, [*module.parameters()], task=cell.task, steps=count)

    return steps


def by_trainer(cell: Cell, folder: Path, count: int) -> Work:
    """Return a function that takes so many steps of the harness, without its files."""
    config = TrainingConfig(
        cell, steps=10_000, validation_tasks=1, validate_every=10_000, compiled="no"
    )
    session = begin(folder, config, fresh=True)
    assert session.journal
    trainer = Trainer(config, session.journal, session.checkpoint, session.digest)
    going = trainer.steps()
    next(going)

    def steps(count: int) -> None:
        for _ in range(count):
            next(going)

    steps(count)
    return steps


def main(*tasks: str) -> None:
    """Print how many times as many steps a second each estimator takes."""
    for task in tasks or SETTINGS:
        model, count, estimators = SETTINGS[task]
        with tempfile.TemporaryDirectory() as folder:
            works = {"by hand": by_hand(_cell("maml", task, model))} | {
                name: by_trainer(_cell(name, task, model), Path(folder), count)
                for name in estimators
            }
            works["by hand"](count)
            rates: dict[str, list[float]] = {name: [] for name in works}
            for _ in range(ROUNDS):
                for name, work in works.items():
                    start = time.perf_counter()
                    work(count)
                    rates[name].append(count / (time.perf_counter() - start))
        print(f"{task}, {model}: {median(rates['by hand']):.1f} steps a second by hand")
        for name in estimators:
            ratios = [one / other for one, other in zip(rates[name], rates["by hand"], strict=True)]
            print(
                f"  {name:32}{median(ratios):6.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def _cell(estimator: str, task: str, model: str) -> Cell:
    return Cell.of(estimator=estimator, task=task, model=model, depth=5)


if __name__ == "__main__":
    main(*sys.argv[1:])
