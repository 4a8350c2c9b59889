"""Commands that the command line takes from this floor."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    store: Annotated[
        Path, typer.Option(envvar="METAGRAD_STORE", help="The folder of results.")
    ] = Path("results"),
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("report"),
) -> int:
    """Write figures and tables of the newest commit: index.html, and summary.md in short.

    Exit code 0: of all results; 1: some could not be read, and are left out; 2: nothing is written.
    """
    from reports.static import write  # it imports altair and more, which `--help` can do without

    (page, summary), made = write(store, out)
    print(f"The report on {made.commit}: {page}, and in short: {summary}")
    for problem in made.problems:
        typer.echo(f"metagrad: {problem}; it is left out", err=True)
    return int(bool(made.problems))
