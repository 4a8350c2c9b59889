"""A profile in the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from harness.profiling.folder import FILES, Profile
from harness.support.units import number_text

_ROWS = 8


def print_profile(profile: Profile, console: Console) -> None:
    """Print time and peak by phase, the top operators and tensors, and the files."""
    summary = profile.summary
    whole = summary["seconds"]
    device = any(sums["device_seconds"] for sums in summary["phases"].values())
    phases = _table("", "phase", "time", "share", *["kernels"] * device, "peak memory")
    for phase, sums in summary["phases"].items():
        row = [phase, number_text(sums["seconds"], "s"), f"{sums['seconds'] / whole:.0%}"]
        row += [number_text(sums["device_seconds"], "s")] * device
        row.append(number_text(sums["peak_memory"], "B") if "peak_memory" in sums else "")
        phases.add_row(*row, style="bold" if phase == summary["peak_phase"] else None)
    console.print(phases)
    console.print(f"{peak_text(summary)}\n")
    console.print(_operators(profile.operators.head(_ROWS).to_dict("records"), whole), "")
    if len(profile.tensors):
        console.print(_tensors(profile), "")
    console.print(
        "Times are those under the profiler, which slows small operators most.", style="dim"
    )
    for note in summary["notes"]:
        console.print(note, style="dim")
    console.print()
    console.print(f"{profile.folder}:", markup=False, soft_wrap=True)
    files = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, opened_by in FILES.items():
        files.add_row(name, opened_by)
    console.print(files)


def _operators(rows: Iterable[dict[Any, Any]], whole: float) -> Table:
    table = _table("operators, by self time", "operator", "phase", "calls", "time", "share")
    for row in rows:
        seconds = row["self_seconds"]
        name = short_name(row["operator"])
        texts = (str(row["calls"]), number_text(seconds, "s"), f"{seconds / whole:.0%}")
        table.add_row(name, row["phase"], *texts)
    return table


def _tensors(profile: Profile) -> Table:
    columns = ("allocated by", "phase", "count", "shape", "memory")
    table = _table("tensors alive at the peak", *columns)
    for row in profile.tensors.head(_ROWS).to_dict("records"):
        size, shape = number_text(row["bytes"], "B"), f"{row['shape'] or 'scalar'} {row['dtype']}"
        table.add_row(row["operator"], row["phase"], str(row["count"]), shape, size)
    rest = profile.tensors.iloc[_ROWS:]
    if len(rest):
        size = number_text(rest["bytes"].sum(), "B")
        table.add_row("(others)", "", str(rest["count"].sum()), "", size)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        # On a narrow screen names are folded; numbers are never cut.
        folded = name in ("operator", "allocated by", "shape")
        justify: JustifyMethod = "left" if folded or name == "phase" else "right"
        table.add_column(name, justify=justify, no_wrap=not folded, overflow="fold")
    return table


def peak_text(summary: dict[str, Any]) -> str:
    """Return the peak and its phase as text."""
    where = f", first reached in: {summary['peak_phase']}" if summary["peak_phase"] else ""
    return f"peak memory {number_text(summary['peak_memory'], 'B')}{where}"


def short_name(operator: str) -> str:
    """Return an operator's name for a narrow column, as "MmBackward0 (engine)"."""
    name = operator.removeprefix("autograd::engine::evaluate_function: ")
    return operator if name == operator else f"{name} (engine)"
