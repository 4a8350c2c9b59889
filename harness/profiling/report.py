"""What the command says of a profile."""

from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from harness.profiling.folder import FILES, Profile
from harness.support.units import bytes_text, seconds_text

_ROWS = 8


def print_profile(profile: Profile, console: Console) -> None:
    """Prints time and peak by phase, the top operators and tensors, and the files."""
    summary = profile.summary
    console.print(_phases(summary))
    console.print(f"{peak_text(summary)}\n", highlight=False)
    console.print(_operators(profile), "")
    if len(profile.tensors):
        console.print(_tensors(profile), "")
    console.print(
        "Times are those under the profiler, which slows small operators most.", style="dim"
    )
    for note in summary["notes"]:
        console.print(note, style="dim", highlight=False)
    console.print()
    console.print(f"{profile.folder}:", markup=False, highlight=False, soft_wrap=True)
    console.print(_files())


def _phases(summary: dict[str, Any]) -> Table:
    device = any(sums["device_seconds"] for sums in summary["phases"].values())
    columns = ["phase", "time", "share", *(["kernels"] if device else []), "peak memory"]
    table = _table("", *columns)
    for phase, sums in summary["phases"].items():
        row = [phase, seconds_text(sums["seconds"]), f"{sums['seconds'] / summary['seconds']:.0%}"]
        row += [seconds_text(sums["device_seconds"])] if device else []
        row.append(bytes_text(sums["peak_memory"]) if "peak_memory" in sums else "")
        table.add_row(*row, style="bold" if phase == summary["peak_phase"] else None)
    return table


def _operators(profile: Profile) -> Table:
    whole = profile.summary["seconds"]
    table = _table(
        "operators, by time in themselves", "operator", "phase", "calls", "time", "share"
    )
    for row in profile.operators.head(_ROWS).to_dict("records"):
        spent = row["self_seconds"]
        told = [short_name(row["operator"]), row["phase"], str(row["calls"]), seconds_text(spent)]
        table.add_row(*told, f"{spent / whole:.0%}")
    return table


def _tensors(profile: Profile) -> Table:
    table = _table("tensors alive at the peak", "made by", "phase", "count", "shape", "memory")
    for row in profile.tensors.head(_ROWS).to_dict("records"):
        shape = f"{row['shape'] or 'scalar'} {row['dtype']}"
        made = [row["operator"], row["phase"], str(row["count"])]
        table.add_row(*made, shape, bytes_text(row["bytes"]))
    rest = profile.tensors.iloc[_ROWS:]
    if len(rest):
        table.add_row("(others)", "", str(rest["count"].sum()), "", bytes_text(rest["bytes"].sum()))
    return table


def _files() -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, opened_by in FILES.items():
        table.add_row(name, opened_by)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        # On a narrow screen names are folded; numbers are never cut.
        folded = name in ("operator", "made by", "shape")
        justify: JustifyMethod = "left" if folded or name == "phase" else "right"
        table.add_column(name, justify=justify, no_wrap=not folded, overflow="fold")
    return table


def peak_text(summary: dict[str, Any]) -> str:
    """Returns how high the peak is and where."""
    where = f", first reached in: {summary['peak_phase']}" if summary["peak_phase"] else ""
    return f"peak memory {bytes_text(summary['peak_memory'])}{where}"


def short_name(operator: str) -> str:
    """Returns an operator's name as a table has room for.

    Example:
        >>> short_name("autograd::engine::evaluate_function: MmBackward0")
        'MmBackward0 (engine)'
    """
    name = operator.removeprefix("autograd::engine::evaluate_function: ")
    return operator if name == operator else f"{name} (engine)"
