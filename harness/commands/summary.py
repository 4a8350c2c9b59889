"""`metagrad summary`."""

from pathlib import Path

from harness.commands.ending import base_of
from harness.commands.options import Against, Imports, Store, console


def summary(
    store: Store = Path("results"),
    against: Against = None,
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> None:
    """Print the table of the run that was written to last."""
    from harness.store.summary import print_summary
    from harness.store.table import journals, load_sound
    from harness.support.plugins import load_plugins

    load_plugins(imports)
    table = load_sound(store)
    last = max(journals(store), key=lambda path: path.stat().st_mtime_ns)
    newest = table[table["run"] == last.stem]
    print_summary(newest, console, base_of(against, set(newest["estimator"])))
