"""One rank of several: `python -m tests.support.sharded_rank FOLDER RANK COUNT`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from estimators import create, estimate_batch
from estimators.hvp import count_hvps
from harness.cell import Cell
from harness.matrix.problems import Sampler, bilevel_problem

SETTINGS = (("sinusoid", "mlp-40-40"), ("glyphs(ways=2, queries=2)", "conv4-16"))
DEPTH = 5
ESTIMATORS = (
    *(f"binom(order={order}%s)" for order in range(DEPTH + 1)),
    "hybrid(order=2, window=4%s)",
    "binom-released(order=3%s)",
)
SHARDED = ", batching='sharded'"

Results = dict[str, tuple[dict[str, torch.Tensor], int]]


def estimates(more: str, dtype: torch.dtype) -> Results:
    """Return the estimates of all, and how many products each took in this process."""
    results: Results = {}
    for task, model in SETTINGS:
        cell = Cell.of(estimator="maml", task=task, model=model, depth=DEPTH)
        problem, params = bilevel_problem(cell, 0, dtype=dtype, device="cpu")
        for name in ESTIMATORS:
            with count_hvps() as counted:
                result = create(name % more)(problem, params)
            results[f"{task} {name}"] = result.gradient, counted.products
    sampler = Sampler.of(cell, dtype=dtype, device="cpu")
    problems = [sampler.problem(index) for index in range(3)]
    batch = estimate_batch(create(f"binom(order=2{more})"), problems, params, batching="loop")
    return results | {"meta-batch": (batch.gradient, 0)}


def main(folder: Path, rank: int, count: int) -> None:
    """Save the estimates of this rank."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    for dtype in (torch.float32, torch.float64):
        torch.save(estimates(SHARDED, dtype), folder / f"{rank}-{dtype}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
