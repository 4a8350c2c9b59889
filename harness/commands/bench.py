"""`metagrad bench`."""

from pathlib import Path

from harness.commands.ending import print_end
from harness.commands.options import Store, console


def bench(store: Store = Path("results")) -> int:
    """Run the asv matrix on the current commit and print the table.

    Exit code 0: all cells were measured; 1: some went wrong; 2: none could be measured.
    """
    from harness.bench import run_asv
    from harness.results.store import load_run

    return print_end(load_run(run_asv(store, console)))
