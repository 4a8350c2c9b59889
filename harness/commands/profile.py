"""`metagrad profile`."""

from pathlib import Path
from typing import Annotated

import typer

from estimators.base.errors import OptionError, UserError
from harness.commands.options import Imports, Store, TimeLimit, console, print_line


def profile(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="Name of a cell in results.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to.", show_default="STORE/profiles/NAME"),
    ] = None,
    time_limit: TimeLimit = 3600,
    store: Store = Path("results"),
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> None:
    """Profile one estimate: trace, operators, flame graph, memory timeline.

    `metagrad report` shows the profiles of the store.
    """
    from harness.cell import Cell
    from harness.environment.gpus import missing_device
    from harness.matrix.outcome import Status
    from harness.profiling.folder import folder_of, read_profile, replaced_when_whole
    from harness.profiling.record import record
    from harness.profiling.report import print_profile
    from harness.running.processes import Limits, run_in_worker, worker_memory
    from harness.support.plugins import load_plugins

    plugins = load_plugins(imports)
    planned = Cell.parse(cell)
    if reason := missing_device(planned.device) or planned.unsupported_reason():
        raise OptionError(reason)
    folder = out or folder_of(planned, store)
    print_line(f"Profiling {planned.id}")
    limits = Limits(time_limit, worker_memory(jobs=1))
    with replaced_when_whole(folder, planned.id) as draft:
        try:
            outcome = run_in_worker(record, planned, draft, limits=limits, plugins=plugins).outcome
        except KeyboardInterrupt:
            raise UserError("stopped; nothing was written") from None
        if outcome.status is not Status.OK:
            raise UserError(f"{planned.estimator} {outcome.status}: {outcome.reason}")
    print_profile(read_profile(folder), console)
