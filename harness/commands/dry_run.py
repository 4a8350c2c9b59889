"""Print what a run would measure, how long it would take and what a cluster would have to do."""

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from harness.commands.options import console
from harness.support.units import counted

if TYPE_CHECKING:
    from harness.matrix.plan import Planned
    from harness.running.estimate import Estimate
    from harness.running.executor import Executor, Settings


def print_dry_run(planned: "list[Planned]", settings: "Settings", executor: "Executor") -> None:
    """Time a few gradients and print what the run would do."""
    from harness.running.estimate import estimate

    with console.status("Timing a few gradients of each task and model"):
        expected = estimate(planned, settings, executor)
    print_estimate(expected, console)
    if executor.where:
        _print_requests(planned, settings.samples, executor)


def print_estimate(estimate: "Estimate", console: Console) -> None:
    """Print the parts of a run and how long it would take."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("task", "model"):
        table.add_column(name, overflow="fold")
    for name in ("K", "device", "cells", "skipped", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in estimate.parts:
        time = "?" if part.seconds is None else _duration(part.seconds) if part.cells else "-"
        counts = (part.depth, part.device, part.cells, part.skipped)
        table.add_row(part.task, part.model, *map(str, counts), time)
    console.print(table)
    console.print()
    for remark, count in estimate.remarks.most_common():
        console.print(f"{count} × {remark}", markup=False, soft_wrap=True)
    cells = sum(part.cells for part in estimate.parts)
    skipped = sum(part.skipped for part in estimate.parts)
    about = "at least" if any(part.seconds is None for part in estimate.parts) else "about"
    console.print(
        f"{counted(cells, 'cell')} to measure, {skipped} skipped, "
        f"{about} {_duration(estimate.seconds)} with {counted(estimate.jobs, 'worker')}",
        soft_wrap=True,
    )


def _print_requests(planned: "list[Planned]", samples: int, executor: "Executor") -> None:
    """Print how many pieces of work would need each resource of a cluster."""
    cells = [plan.cell for plan in planned if not plan.skip]
    groups = Counter(group.device for group in {cell.group for cell in cells})
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("resource")
    for name in ("references", "scores", "timings"):
        table.add_column(name, justify="right")
    for device, count in Counter(cell.device for cell in cells).items():
        timings = groups[device] if samples else 0
        table.add_row(f"{device}=1", str(groups[device]), str(count), str(timings))
    console.print(f"\nPieces of work for {executor.where}:\n")
    console.print(table)
    limits = executor.limits
    console.print(
        f"\nA piece of work may take {limits.seconds:g} s and {limits.memory / 2**30:.1f} GiB."
    )


def _duration(seconds: float) -> str:
    """Return a time in a suitable unit, to two figures where there is a fraction."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 9.5 else f"{number:.2g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
