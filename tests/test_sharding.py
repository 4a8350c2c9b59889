"""Products spread over processes give the estimate of one, to rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from estimators import create
from estimators.base.errors import OptionError
from estimators.hvp.sharding import share
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from tests.support.sharded_rank import DEPTH, SETTINGS, Results, estimates

ROOT = Path(__file__).parent.parent
LIMITS = {torch.float32: 1e-6, torch.float64: 1e-12}


def ranks(folder: Path, count: int) -> list[dict[torch.dtype, Results]]:
    """Return the results of each of several processes."""
    command = [sys.executable, "-m", "tests.support.sharded_rank", str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank), str(count)], cwd=ROOT) for rank in range(count)
    ]
    assert [process.wait(300) for process in processes] == [0] * count
    return [
        {dtype: torch.load(folder / f"{rank}-{dtype}.pt", weights_only=True) for dtype in LIMITS}
        for rank in range(count)
    ]


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_it_is_the_estimate_of_one_process_on_all_ranks(tmp_path: Path, count: int) -> None:
    first, *others = results = ranks(tmp_path, count)
    for dtype, limit in LIMITS.items():
        for name, (expected, products) in estimates("", dtype).items():
            gradient, _ = first[dtype][name]
            size = torch.cat([value.flatten() for value in expected.values()]).norm()
            apart = [gradient[key] - expected[key] for key in expected]
            assert torch.cat([one.flatten() for one in apart]).norm() <= limit * size, name
            for other in others:
                assert all(
                    torch.equal(gradient[key], other[dtype][name][0][key]) for key in expected
                )
            # No product is taken twice.
            assert sum(rank[dtype][name][1] for rank in results) == products
    name = f"{SETTINGS[0][0]} binom(order=1%s)"
    taken = [rank[torch.float64][name][1] for rank in results]
    assert taken == {2: [3, 2], 3: [2, 2, 1]}[count]  # a share of each level, rounded up


def test_without_a_process_group_it_is_refused() -> None:
    cell = Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=DEPTH)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float64, device="cpu")
    with pytest.raises(OptionError, match="process group"):
        create("binom(order=2, batching='sharded')")(problem, params)
    with pytest.raises(OptionError, match="process group"):
        share([1, 2])
