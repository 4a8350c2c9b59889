"""What commands share: their options, and where they print."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
"""Where tables and progress go; what is piped or kept in a file is not cut to a screen's width."""

Store = Annotated[Path, typer.Option("--store", envvar="METAGRAD_STORE", help="Folder of results.")]
Imports = Annotated[
    list[str],
    typer.Option("--import", metavar="MODULE", help="Module or file.py that registers more."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help='Cells that fit alone, as "estimator=binom*,depth=5"; "|" between alternatives, '
        "depth>=5 for numbers; repeatable.",
        metavar="AXIS=PATTERN,...",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(help="Estimator that time and memory are compared with in the table."),
]
