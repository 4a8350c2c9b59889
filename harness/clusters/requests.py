"""What would be asked of a cluster, for people."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from harness.matrix.plan import Planned
from harness.running.executor import Opened


def print_asked(found: Opened, planned: list[Planned], samples: int, console: Console) -> None:
    """Prints the pieces of work of a plan by the resource that they ask for, and SLURM's script."""
    cells = [plan.cell for plan in planned if not plan.skip]
    groups = Counter(group.device for group in {cell.group for cell in cells})
    scores = Counter(cell.device for cell in cells)
    limits = found.executor.limits
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("resource")
    for name in ("references", "scores", "timings"):
        table.add_column(name, justify="right")
    for device, count in scores.items():
        timings = groups[device] if samples else 0
        table.add_row(f"{device}=1", str(groups[device]), str(count), str(timings))
    if found.script:
        console.print(f"\n{found.where}, each by this script:\n", highlight=False)
        console.print(found.script.strip(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nAsked of {found.where}:\n", highlight=False)
    console.print(table)
    console.print(
        f"\nA piece of work may take {limits.seconds:g} s and {limits.memory / 2**30:.1f} GiB.",
        highlight=False,
    )
