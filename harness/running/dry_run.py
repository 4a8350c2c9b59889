"""What a plan would measure, for people."""

from rich.console import Console
from rich.table import Table

from harness.running.estimate import Estimate


def print_dry_run(told: Estimate, console: Console) -> None:
    """Prints what a run would do, part by part, and how long it would take."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("task", "model"):
        table.add_column(name, overflow="fold")
    for name in ("K", "device", "cells", "skipped", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in told.parts:
        time = "?" if part.seconds is None else _duration(part.seconds) if part.cells else "-"
        table.add_row(
            part.task,
            part.model,
            str(part.depth),
            part.device,
            str(part.cells),
            str(part.skipped),
            time,
        )
    console.print(table)
    console.print()
    for remark, count in told.remarks.most_common():
        console.print(f"{count} × {remark}", markup=False, highlight=False, soft_wrap=True)
    cells = sum(part.cells for part in told.parts)
    skipped = sum(part.skipped for part in told.parts)
    about = "at least" if any(part.seconds is None for part in told.parts) else "about"
    console.print(
        f"{_counted(cells, 'cell')} to measure, {skipped} skipped, "
        f"{about} {_duration(told.seconds)} with {_counted(told.jobs, 'worker')}",
        highlight=False,
        soft_wrap=True,
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _duration(seconds: float) -> str:
    """Returns a time in the unit that suits it, to two figures where there is a fraction."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 9.5 else f"{number:.2g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
