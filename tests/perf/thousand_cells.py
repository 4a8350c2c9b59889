"""A thousand cells over two Dask workers, one killed: `python -m tests.perf.thousand_cells`.

It takes minutes, and so is no test; tests/test_cluster.py does the same with fewer cells.
"""

import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness.store.runs import read_run
from tests.support.commands import COMMAND, TINY, estimators, variables, wait_for
from tests.support.dask_cluster import dask_cluster, kill_in_midst, stages_of

SEEDS = 250
ESTIMATORS = ("fomaml", "maml", "reptile", "adjoint")
KILLED_AFTER = 100  # results


def main() -> None:
    """Runs and kills, then prints what is in the journal.

    Raises:
        SystemExit: a cell is missing or there twice.
    """
    seeds = [part for seed in range(SEEDS) for part in ("--seed", str(seed))]
    with tempfile.TemporaryDirectory(prefix="m") as name:
        folder = Path(name)
        start = time.monotonic()
        with dask_cluster(folder / "cluster") as cluster:
            command = subprocess.Popen(
                [
                    *(str(COMMAND), "run", *TINY, *estimators(*ESTIMATORS), *seeds, "--depth", "1"),
                    *("--samples", "6", "--executor", "dask", "--scheduler", cluster.address),
                ],
                cwd=folder,
                env=os.environ | variables(folder),
                stdout=subprocess.DEVNULL,
            )
            runs = folder / "results" / "runs"
            wait_for(lambda: any(runs.glob("*.jsonl")))
            (journal,) = runs.glob("*.jsonl")
            there = kill_in_midst(cluster.workers[0], journal, KILLED_AFTER)
            code = command.wait()
        seconds = time.monotonic() - start
        read = read_run(journal)
        stages = stages_of(journal)
    cells = Counter(str(cell.status) for cell in read.cells)
    print(f"exit code {code} after {seconds:.0f} s; a worker was killed after {there} results")
    print(f"cells: {dict(cells)}; results: {len(stages)}, of which {_twice(stages)} twice")
    if (code, dict(cells), len(stages), _twice(stages)) != (0, {"ok": 1000}, 2000, 0):
        raise SystemExit("that is not each cell once")


def _twice(stages: Counter[tuple[str, str]]) -> int:
    return sum(count > 1 for count in stages.values())


if __name__ == "__main__":
    main()
