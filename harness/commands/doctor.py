"""`metagrad doctor`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from harness.commands.options import Store, console
from harness.support.units import number_text


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the environment as JSON, without checks.")
    ] = False,
    store: Store = Path("results"),
) -> int:
    """Show the environment of measurements, and check it for causes of unsteady timings.

    Exit code 0: none was found; 1: some were.
    """
    from harness.environment import code_state, environment
    from harness.environment.doctor import findings
    from harness.environment.steadiness import steadiness

    known = environment(store)
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return 0
    steady = steadiness()
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, facts in _groups(known, code_state(known)).items():
        texts = {name: text for name, fact in facts.items() if (text := _text(fact))}
        if texts:
            table.add_row(f"[bold]{title}[/bold]", "")
        for name, text in texts.items():
            table.add_row("  " + escape(name.replace("_", " ")), escape(text))
    console.print(table, highlight=False)
    console.print(
        f"\nTest work on one thread: upper quartile {steady.spread:.2f} times the lower, "
        f"{steady.drift:.2f} times as long at the end.",
        highlight=False,
    )
    causes = findings(known, steady)
    for cause in causes:
        line = f"[yellow]{escape(_sentence(cause.what))}[/yellow]: {escape(cause.why)}."
        console.print(f"- {line} {escape(_sentence(cause.remedy))}.", highlight=False)
    if not causes:
        console.print("Nothing found that makes timings unsteady.", style="green")
    return int(bool(causes))


def _groups(known: dict[str, Any], state: str) -> dict[str, dict[str, Any]]:
    now = known["moment"]
    memory = {"memory": known["memory"], "allowed": known["limits"].get("memory")}
    memory |= {name: now.get(name) for name in ("memory_free", "swap", "swap_used", "disk_free")}
    cpu = {"name": known["processor"], "cores": known["cores"], **known["cpu"]}
    cpu["allowed"] = known["limits"].get("processors")
    cpu |= {name: now.get(name) for name in ("load", "throttled", "overheated", "on_battery")}
    names = ("commit", "changes", "source", "plugins")
    return {
        "code": {**{name: known[name] for name in names}, "state": state},
        "machine": {
            "name": known["machine"],
            "fingerprint": known["fingerprint"],
            "system": known["system"],
        },
        "processor": cpu,
        "memory and disk": {name: _size(size) for name, size in memory.items()},
        **{
            f"GPU {gpu['index']}": gpu | {"memory": _size(gpu.get("memory"))}
            for gpu in known["gpus"]
        },
        "torch": {**known["torch"], **known["flags"]},
        "threads": {**known["threading"], "variables": known["variables"]},
        "packages": {"python": known["python"], "installed": known["packages"]},
    }


def _text(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, list):
        return ", ".join(str(part) for part in fact)
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return "" if fact is None else str(fact)


def _size(size: int | None) -> str:
    return "" if size is None else number_text(size, "B")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
