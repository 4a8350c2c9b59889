"""`metagrad bench`."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.measure import print_run, went_wrong
from harness.commands.options import Store, console


def bench(
    commits: Annotated[
        str,
        typer.Argument(
            metavar="RANGE", help="Commits, as v1..main or NEW.", show_default="the current one"
        ),
    ] = "HEAD^!",
    store: Store = Path("results"),
) -> int:
    """Run the asv matrix on the current commit, or on others, and print the table of the newest.

    Exit code 0: all cells were measured; 1: some went wrong at a commit; 2: none could be measured.
    """
    from harness.asv.bench import run_asv
    from harness.store.runs import read_run

    journals = run_asv(store, console, commits)
    if not journals:
        console.print("All of them have results already.")
        return 0
    *others, last = journals
    wrong = sum(went_wrong(read_run(journal)) for journal in others)
    if wrong:
        console.print(f"Some cells went wrong at {wrong} of the other commits.")
    return max(print_run(last), int(wrong > 0))
