"""Bias before and after exact meta-training on the sinusoid.

    python -m harness.studies.calibration

Exact meta-training drives alpha lambda_max towards 1, where Eq. 8 fails and the calibrated
cascade does not. Prints a Markdown table: median relative error over held-out tasks, in float64.
"""

import warnings
from statistics import median

import torch
from rich.progress import track

from estimators import BilevelProblem, Params, create, estimate_batch
from estimators.estimator import Estimator
from estimators.hvp import hvp
from estimators.tree import norm, scaled
from harness.cell import Cell
from harness.probes.bias import relative_error
from harness.problems import bilevel_problems

CELL = Cell.of(
    estimator="maml", task="sinusoid", model="mlp-40-40(init='torch')", depth=5, step_size=0.01
)
STEPS, META_BATCH, PROBES, HELD_OUT = 800, 4, 16, 40
NAMES = ("truncated", "binom", "binom-released", "binom-calibrated")
FIRST_PROBE, FIRST_HELD_OUT = 500_000, 600_000


def problems(first: int, count: int) -> tuple[list[BilevelProblem], Params]:
    """The tasks numbered from `first`, and the initial parameters."""
    return bilevel_problems(CELL, range(first, first + count), dtype=torch.float64, device="cpu")


def meta_trained(theta: Params) -> Params:
    """Parameters after exact meta-training with Adam."""
    exact = create("maml")
    params = {name: value.clone().requires_grad_() for name, value in theta.items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-3)
    for step in track(range(STEPS), "exact meta-training"):
        batch, _ = problems(step * META_BATCH, META_BATCH)
        gradient = estimate_batch(exact, batch, params, batching="vmap").gradient
        for name, value in params.items():
            value.grad = gradient[name]
        optimizer.step()
    return {name: value.detach() for name, value in params.items()}


def curvature(theta: Params) -> float:
    """Median over held-out tasks of alpha lambda_max at theta, by power iteration."""
    found = []
    for problem in problems(FIRST_HELD_OUT, HELD_OUT)[0]:
        vector, size = theta, 1.0
        for _ in range(50):
            vector = scaled(1 / norm(vector), vector)
            vector = hvp(problem.inner_loss, theta, vector, engine="reverse")
            size = norm(vector)
        found.append(problem.alpha * size)
    return median(found)


def errors(theta: Params) -> dict[str, list[float]]:
    """Median relative error by estimator and order."""
    held_out, _ = problems(FIRST_HELD_OUT, HELD_OUT)
    exact = [create("adjoint")(problem, theta).gradient for problem in held_out]

    def median_error(estimator: Estimator) -> float:
        pairs = zip(held_out, exact, strict=True)
        return median(relative_error(estimator(p, theta).gradient, e) for p, e in pairs)

    table: dict[str, list[float]] = {"fomaml": [median_error(create("fomaml"))] * 4}
    for name in NAMES:
        table[name] = []
        for order in range(1, 5):
            estimator = create(name, order=order)
            if estimator.due:
                estimator.calibrate(problems(FIRST_PROBE, PROBES)[0], theta)
            table[name].append(median_error(estimator))
    return table


def main() -> None:
    """Prints both tables."""
    warnings.simplefilter("always")
    _, theta = problems(0, 1)
    for what, point in (("at initialisation", theta), ("after meta-training", meta_trained(theta))):
        print(f"\n{what}, alpha lambda_max = {curvature(point):.2f}\n")
        table = errors(point)
        print("| L | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
        for order in range(4):
            cells = (f"{column[order]:.2g}" for column in table.values())
            print(f"| {order + 1} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
