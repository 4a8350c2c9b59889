"""Bias before and after exact meta-training on the sinusoid.

    python -m tools.calibration

Exact meta-training drives alpha lambda_max towards 1, where Eq. 8 fails and the calibrated
cascade does not. Prints a Markdown table: median relative error over held-out tasks, in float64.
"""

import warnings
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from harness.cell import Cell
from harness.matrix.problems import bilevel_problems, prepared_estimator
from harness.probes.bias import relative_error
from harness.probes.references import Reference, load_reference, save_reference

STEPS, HELD_OUT = 800, 40
NAMES = ("truncated", "binom", "binom-released", "binom-calibrated")


def cell(estimator: str, trained: int) -> Cell:
    """Return the cell of an estimator, after so many steps of meta-training."""
    return Cell.of(
        estimator=estimator,
        task="sinusoid",
        model="mlp-40-40(init='torch')",
        depth=5,
        step_size=0.01,
        num_tasks=HELD_OUT,
        trained=trained,
    )


def exact(trained: int) -> Reference:
    """Compute exact meta-gradients and curvature of the held-out tasks."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "exact.pt"
        save_reference(cell("adjoint", trained), path)
        return load_reference(path, "cpu")


def errors(trained: int, reference: Reference) -> dict[str, list[float]]:
    """Return the median relative error by estimator and order."""
    problems, theta = bilevel_problems(
        cell("adjoint", trained), range(HELD_OUT), dtype=torch.float64, device="cpu"
    )

    def median_error(specification: str) -> float:
        estimator = prepared_estimator(cell(specification, trained))
        pairs = zip(problems, reference.gradients, strict=True)
        return median(relative_error(estimator(p, theta).gradient, g) for p, g in pairs)

    table = {"fomaml": [median_error("fomaml")] * 4}
    for name in NAMES:
        table[name] = [median_error(f"{name}(order={order})") for order in range(1, 5)]
    return table


def main() -> None:
    """Print both tables."""
    warnings.simplefilter("always")
    for time, trained in (("at initialisation", 0), ("after meta-training", STEPS)):
        reference = exact(trained)
        print(f"\n{time}, alpha lambda_max = {median(reference.curvature):.2f}\n")
        table = errors(trained, reference)
        print("| L | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
        for order in range(4):
            cells = (f"{column[order]:.2g}" for column in table.values())
            print(f"| {order + 1} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
