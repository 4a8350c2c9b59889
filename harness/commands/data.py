"""`metagrad data`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from estimators.base.errors import OptionError
from harness.commands.options import console

if TYPE_CHECKING:
    from harness.tasks.inspect_folder import PartSurvey, Survey

data = typer.Typer(no_args_is_help=True, help="Image data sets of your own.")
_MOST_TOLD = 20  # findings


@data.callback()
def _data() -> None:
    """Keeps `check` a command of its own: typer would take the only one for `data` itself."""


@data.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.", metavar="PATH")],
) -> int:
    """Tell what data set a folder holds, open every image, and tell which task reads it.

    Exit code 0: all is well; 1: something is broken, missing or other than official; 2: there is
    nothing to read.
    """
    from harness.support.progress import progress_bar
    from harness.tasks.inspect_folder import below, findings, lacking, survey
    from harness.tasks.reading.names import shown_file

    with progress_bar(console) as show:
        found = survey(path, lambda done, what: show(done, 1, what))
    if found is None:
        _tell_nothing(list(lacking(path)))
        for folder, family in below(path):
            _say(f"- but {shown_file(str(folder))} looks like {family}", style="yellow")
        raise OptionError(f"no data set that is known in {path}; what it lacks is above")
    _say(f"{found.family.family}, as {found.layout.about}, in {path}")
    console.print(_table(found), highlight=False)
    told = list(findings(found))
    for line in told[:_MOST_TOLD]:
        _say(f"- {line}", style="yellow")
    if told[_MOST_TOLD:]:
        _say(f"- and {len(told) - _MOST_TOLD} more findings", style="yellow")
    if not told:
        _say("Every image can be read.", style="green")
    _say(_usage(found))
    return int(bool(told))


def _tell_nothing(lacks: list[tuple[str, str, str]]) -> None:
    table = Table("task", box=None, pad_edge=False)
    for name in ("layout", "not there"):
        table.add_column(name, overflow="fold")
    for row in lacks:
        table.add_row(*(escape(text) for text in row))
    console.print(table, highlight=False)


def _table(found: "Survey") -> Table:
    table = Table("split", box=None, pad_edge=False)
    for name in ("classes", "images", "fewest", "most", "pixels"):
        table.add_column(name, justify="right")
    for part in found.parts:
        if part.unreadable:
            table.add_row(part.part, *"-----")
            continue
        table.add_row(
            part.part,
            *(str(len(part.names)), str(part.counts.sum())),
            *(str(part.counts.min()), str(part.counts.max())),
            _pixels(part),
        )
    return table


def _pixels(part: "PartSurvey") -> str:
    if not part.sizes:
        return "-"
    widths, heights = ([size[axis] for size in part.sizes] for axis in (0, 1))
    smallest, largest = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _usage(found: "Survey") -> str:
    from harness.tasks.inspect_folder import base, spelling, usable

    root = base(found)
    before = f"METAGRAD_DATA={shlex.quote(str(root))} " if root else ""
    task = spelling(found)
    quoted = shlex.quote(task) if set('"$`\\!') & {*task} else f'"{task}"'
    begin = "To use it" if usable(found) else "To use it, once that is mended"
    return f"{begin}: {before}metagrad run --task {quoted} --model conv4-32 --depth 5"


def _say(line: str, style: str | None = None) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False, style=style)
