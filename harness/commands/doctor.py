"""`metagrad doctor`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from harness.commands.options import Store, console
from harness.support.units import number_text

_SIZES = ("memory", "memory_free", "swap", "swap_used", "disk_free")


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
        print(json.dumps(known, indent=2))
        return 0
    steady = steadiness()
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, facts in _groups(known, code_state(known)).items():
        texts = {name: text for name, fact in facts.items() if (text := _text(name, fact))}
        if texts:
            table.add_row(f"[bold]{title}[/bold]", "")
        for name, text in texts.items():
            table.add_row("  " + escape(name.replace("_", " ")), escape(text))
    console.print(table)
    console.print(
        f"\nTest work on one thread: upper quartile {steady.spread:.2f} times the lower, "
        f"{steady.drift:.2f} times as long at the end."
    )
    causes = findings(known, steady)
    for cause in causes:
        line = f"[yellow]{escape(_sentence(cause.what))}[/yellow]: {escape(cause.why)}."
        console.print(f"- {line} {escape(_sentence(cause.remedy))}.")
    if not causes:
        console.print("Nothing found that makes timings unsteady.", style="green")
    return int(bool(causes))


def _groups(known: dict[str, Any], state: str) -> dict[str, dict[str, Any]]:
    def entries(*names: str) -> dict[str, Any]:
        return {name: known[name] for name in names}

    return {
        "code": entries("commit", "changes", "source", "plugins") | {"state": state},
        "machine": {"name": known["machine"], **entries("fingerprint", "system", "memory")},
        "processor": {"name": known["processor"], "cores": known["cores"], **known["cpu"]},
        "limits": known["limits"],
        "now": known["moment"],
        **{f"GPU {gpu['index']}": gpu for gpu in known["gpus"]},
        "torch": {**known["torch"], **known["flags"]},
        "threads": {**known["threading"], "variables": known["variables"]},
        "packages": {"python": known["python"], "installed": known["packages"]},
    }


def _text(name: str, fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if name in _SIZES and fact is not None:
        return number_text(fact, "B")
    if isinstance(fact, list):
        return ", ".join(str(part) for part in fact)
    if isinstance(fact, dict):
        return ", ".join(f"{key} {value}" for key, value in fact.items())
    return "" if fact is None else str(fact)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
