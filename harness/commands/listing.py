"""`metagrad list`."""

from rich.table import Table

from harness.commands.options import Imports, console


def list_everything(imports: Imports = []) -> None:  # ruff: ignore[mutable-argument-default] (typer copies it)
    """List estimators, tasks, models, presets and metrics."""
    from estimators.base.registry import ESTIMATORS
    from harness.matrix.metrics import METRICS
    from harness.models import MODELS
    from harness.support.plugins import load_plugins
    from harness.support.presets import about
    from harness.tasks import TASKS

    load_plugins(imports)
    for registry in (ESTIMATORS, TASKS, MODELS):
        table = _columns(f"{registry.kind}s", "name", "options")
        for name in registry.available():
            options = registry.options(name).values()
            table.add_row(name, ", ".join(str(o).replace(" ", "") for o in options))
        console.print(table)
    for command, package in (("run", "harness.matrix"), ("train", "harness.training")):
        table = _columns(f"presets of metagrad {command}", "name", "description")
        for row in about(package).items():
            table.add_row(*row)
        console.print(table)
    table = _columns("metrics", "name", "unit", "description")
    for metric in METRICS.values():
        table.add_row(metric.name, metric.unit, metric.about)
    console.print(table)


def _columns(title: str, *names: str) -> Table:
    table = Table(*names, title=title, title_justify="left", box=None, pad_edge=False)
    table.columns[0].style = "bold"
    return table
