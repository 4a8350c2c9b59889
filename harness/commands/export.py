"""`metagrad export`."""

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import Store, print_left_out


def export(
    store: Store = Path("results"),
    out: Annotated[Path, typer.Option(help="File to write; - for standard output.")] = Path("-"),
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="csv|parquet|json",
            help="Format.",
            show_default="the file's suffix, csv for standard output",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> int:
    """Write all results as one long table: a row per run, cell and metric.

    Exit code 0: all of them; 1: some could not be read and are left out; 2: nothing is written.
    """
    from harness.store.export import export as write

    problems = write(store, out, form, force=force)
    print_left_out(problems)
    return int(bool(problems))
