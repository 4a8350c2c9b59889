"""Estimates how many operators a preset launches, and how long GPUs would take for that.

    python -m tools.launches full --most-depth 20 --seeds 6 --gpus 64

Small models wait for launches on a GPU. Those of an inner gradient, an outer one and an HVP are
counted on the CPU; a call at depth K with n products is taken as K + 1 gradients and n HVPs, a cell
as the calls of its score and its times. No GPU is asked: seconds are launches times `LAUNCH`, and
round figures for the rest.
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from functools import cache, partial

import torch

from estimators import create
from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from estimators.hvp import hvp
from harness.cell import Cell
from harness.matrix.plan import expand, preset
from harness.matrix.problems import bilevel_problem
from harness.probes.launches import count_launches

LAUNCH = 10e-6  # seconds
COUNTED = 0.2e-3  # seconds, of one launch while FLOPs and launches are counted
SCORED, TIMED = 5, 14  # calls in the cell's dtype; tasks come on top, in float64
START, WATCHED = 3.0, 2.0  # seconds: a worker with its CUDA context, utilisation


@cache
def units(task: str, model: str) -> tuple[int, int]:
    """Return the launches of one inner gradient, and of one HVP with its gradient."""
    cell = Cell.of(estimator="fomaml", task=task, model=model, depth=1)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    point, loss = leaves(params), problem.inner_loss
    gradient = count_launches(partial(value_and_gradient, loss, point))
    return gradient, count_launches(partial(hvp, loss, point, params, engine="reverse"))


def launches(cell: Cell) -> int:
    """Return the launches of one call."""
    gradient, product = units(cell.task, cell.model)
    cost = create(cell.estimator).cost(cell.depth)
    products = cost.hvps if cost else cell.depth
    return (cell.depth + 1) * gradient + round(products * product)


def main() -> None:
    """Print the arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--most-depth", type=int, default=10**9)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1)
    options = parser.parse_args()
    axes = replace(preset(options.preset), devices=("cuda:0",), seeds=tuple(range(options.seeds)))
    cells = [plan.cell for plan in expand(axes, missing=lambda device: None) if not plan.skip]
    cells = [cell for cell in cells if cell.depth <= options.most_depth]
    scores: defaultdict[Cell, float] = defaultdict(float)
    timings: defaultdict[Cell, float] = defaultdict(lambda: START)
    for cell in cells:
        count = launches(cell)
        calls = SCORED + cell.num_tasks
        scores[cell] = START + count * (calls * LAUNCH + 2 * COUNTED)
        timings[cell.group] += WATCHED + TIMED * count * LAUNCH
    print(f"{len(cells)} cells in {len(timings)} groups, {sum(map(launches, cells)):,} launches")
    for name, pieces in (("scores", scores), ("timings", timings)):
        hours, longest = sum(pieces.values()) / 3600, max(pieces.values()) / 60
        share = max(hours * 60 / options.gpus, longest)
        print(
            f"{name}: {hours:.1f} h in all, the longest piece {longest:.1f} min; "
            f"{share:.0f} min on {options.gpus}"
        )


if __name__ == "__main__":
    main()
