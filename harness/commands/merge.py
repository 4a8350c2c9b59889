"""`metagrad merge`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from estimators.base.errors import OptionError
from harness.commands.options import Store, console


def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FROM...",
            help="Folders of results, or .json files that pytest-benchmark has written.",
        ),
    ],
    store: Store = Path("results"),
) -> int:
    """Bring results of other machines into a store.

    Runs, trainings, profiles, asv's results and times of kernels; what is there already is left
    as it is.
    Stopped in any way, it goes on where it was when the same command is given again.
    Exit code 0: all of them are in the store; 1: some were left out; 2: nothing could be done.
    """
    from harness.merging.merge import KINDS, Merged
    from harness.merging.merge import merge as bring

    try:
        merged: Merged = bring(sources, store)
    except KeyboardInterrupt:
        raise OptionError(
            "stopped; what has come is whole, and the same command goes on from there"
        ) from None
    for problem in merged.left_out:
        typer.echo(f"metagrad: {problem}; it is left out", err=True)
    if merged.came:
        table = Table("machine", *KINDS, box=None, pad_edge=False)
        for machine in sorted({machine for _, machine in merged.came}):
            counts = [str(merged.came[kind, machine] or "") for kind in KINDS]
            table.add_row(escape(machine) or "unknown", *counts)
        console.print(table, highlight=False)
    told = {
        "came": merged.came.total(),
        "there already": merged.there,
        "left out": len(merged.left_out),
    }
    console.print(
        f"Into {store}: {', '.join(f'{count} {what}' for what, count in told.items())}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for name, count in merged.namesakes.items():
        console.print(
            f"{count} machines are called {name}: their figures stay apart.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return merged.exit_code
