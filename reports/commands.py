"""Commands that the command line takes from this floor."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    store: Annotated[
        Path, typer.Option(envvar="METAGRAD_STORE", help="The folder of results.")
    ] = Path("results"),
    out: Annotated[Path, typer.Option(help="The folder to write index.html to.")] = Path("report"),
) -> None:
    """Write the figures and tables of the newest commit to one HTML file."""
    from reports.static import write  # it imports altair and more, which `--help` can do without

    path, commit = write(store, out)
    print(f"The report on {commit}: {path}")
