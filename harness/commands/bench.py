"""`metagrad bench`."""

from pathlib import Path

from harness.commands.ending import print_end
from harness.commands.options import Store, console


def bench(store: Store = Path("results")) -> None:
    """Run the asv matrix on the current commit and print the table."""
    from harness.bench import run_asv
    from harness.store import load_run

    print_end(load_run(run_asv(store, console)))
