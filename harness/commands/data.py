"""`metagrad data`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from estimators.base.errors import UserError
from harness.commands.command import Command
from harness.commands.options import console, print_line

if TYPE_CHECKING:
    from harness.tasks.inspect_folder import FolderReport, PartReport

data = typer.Typer(no_args_is_help=True, help="Image data sets of your own.")
_MOST_LINES = 20  # of findings


@data.callback()
def _data() -> None:
    """Keep `check` a subcommand: typer would take the only one for `data` itself."""


@data.command(cls=Command)
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.", metavar="PATH")],
) -> int:
    """Show which data set a folder holds, open every image, and name the task that reads it.

    Exit code 0: all is well; 1: something is broken, missing or other than official; 2: there is
    nothing to read.
    """
    from harness.support.progress import progress_bar
    from harness.tasks.inspect_folder import data_sets_below, inspect_folder, missing_files
    from harness.tasks.reading.names import printable_path

    with progress_bar(console) as show:
        report = inspect_folder(path, lambda done, text: show(done, 1, text))
    if report is None:
        table = Table("task", box=None, pad_edge=False)
        for name in ("layout", "missing"):
            table.add_column(name, overflow="fold")
        for row in missing_files(path):
            table.add_row(*map(escape, row))
        console.print(table)
        for folder, family in data_sets_below(path):
            print_line(f"- but {printable_path(folder)} looks like {family}", style="yellow")
        raise UserError(f"no known data set in {path}; the table above names the missing files")
    print_line(f"{report.family.family}, as {report.layout.about}, in {path}")
    console.print(_table(report))
    lines = list(report.findings())
    for line in lines[:_MOST_LINES]:
        print_line(f"- {line}", style="yellow")
    if lines[_MOST_LINES:]:
        print_line(f"- and {len(lines) - _MOST_LINES} more findings", style="yellow")
    if not lines:
        print_line("Every image can be read.", style="green")
    print_line(_usage(report))
    return int(bool(lines))


def _table(report: "FolderReport") -> Table:
    table = Table("split", box=None, pad_edge=False)
    for name in ("classes", "images", "fewest", "most", "pixels"):
        table.add_column(name, justify="right")
    for part in report.parts:
        if part.error:
            table.add_row(part.name, *"-----")
            continue
        counts = part.counts
        numbers = (len(counts), counts.sum(), counts.min(), counts.max())
        table.add_row(part.name, *map(str, numbers), _pixels(part))
    return table


def _pixels(part: "PartReport") -> str:
    if not part.sizes:
        return "-"
    widths, heights = zip(*part.sizes, strict=True)
    smallest, largest = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _usage(report: "FolderReport") -> str:
    root = report.data_root
    variable = f"METAGRAD_DATA={shlex.quote(str(root))} " if root else ""
    task = report.task
    quoted = shlex.quote(task) if set('"$`\\!') & {*task} else f'"{task}"'
    start = "To use it" if report.usable else "To use it, once that is mended"
    return f"{start}: {variable}metagrad run --task {quoted} --model conv4-32 --depth 5"
