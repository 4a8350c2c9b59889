"""`metagrad summary`."""

from pathlib import Path

from harness.commands.ending import base_of
from harness.commands.options import Against, Imports, Store, console


def summary(
    store: Store = Path("results"),
    against: Against = None,
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> None:
    """Print the table of the newest run."""
    from harness.plugins import load_plugins
    from harness.store import load_sound
    from harness.summary import print_summary

    load_plugins(imports)
    table = load_sound(store)
    newest = table[table["run"] == table["run"].max()]
    print_summary(newest, console, base_of(against, set(newest["estimator"])))
