"""`metagrad merge`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from estimators.base.errors import UserError
from harness.commands.options import Store, console, print_left_out, print_line, warn


def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FROM...",
            help="Folders of results, or .json files of pytest-benchmark.",
        ),
    ],
    store: Store = Path("results"),
) -> int:
    """Copy results of other machines into a store.

    Runs, trainings, profiles, asv's results and times of kernels; what the store has already is not
    changed. After any interruption the same command goes on.
    Exit code 0: all of them are in the store; 1: some were left out; 2: nothing could be done.
    """
    from harness.merging.merge import KINDS
    from harness.merging.merge import merge as copy

    try:
        merged = copy(sources, store)
    except KeyboardInterrupt:
        raise UserError(
            "stopped; files copied so far are whole, and the same command goes on from there"
        ) from None
    for line in merged.warnings:
        warn(line)
    print_left_out(merged.left_out)
    if merged.added:
        table = Table("machine", *KINDS, box=None, pad_edge=False)
        for machine in sorted({machine for _, machine in merged.added}):
            counts = [str(merged.added[kind, machine] or "") for kind in KINDS]
            table.add_row(escape(machine) or "unknown", *counts)
        console.print(table)
    print_line(
        f"Into {store}: {merged.added.total()} added, {merged.present} present already, "
        f"{len(merged.left_out)} left out."
    )
    for name, count in merged.same_name.items():
        print_line(f"{count} machines have the name {name}: their results stay separate.")
    return merged.exit_code
