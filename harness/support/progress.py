"""The progress bar of the command line."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Show = Callable[[float, float | None, str], None]


@contextmanager
def progress_bar(console: Console) -> Generator[Show]:
    """Show a bar with elapsed and remaining time, or lines if there is no terminal.

    Yields:
        A function of the work done, all work (None if not known yet), and a description.
    """
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TaskProgressColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[clock]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        task = progress.add_task("starting", total=None, clock="elapsed")

        def show(done: float, total: float | None, doing: str) -> None:
            # The first few per cent do not predict the time left.
            known = total if total and done > 0.03 * total else None
            progress.update(task, completed=done, total=known, description=doing)

        yield show


class _Lines:
    """Prints one line for each tenth of the work, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._share = ""

    def __call__(self, done: float, total: float | None, doing: str) -> None:
        share = f"{10 * int(10 * done / total):3d} %" if total else "  0 %"
        if share != self._share:
            self._share = share
            self._console.print(f"{share} {doing}", markup=False, highlight=False)
