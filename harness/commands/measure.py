"""Measuring the cells that a command names, with progress before and a table at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from estimators.base.errors import OptionError, UserError
from harness.commands.options import console, print_line, warn

if TYPE_CHECKING:
    from harness.matrix.plan import Planned
    from harness.running.budget import Budget
    from harness.running.executor import Executor, Settings
    from harness.store.journal import Progress
    from harness.store.runs import Run


def measure_cells(
    planned: "Sequence[Planned]",
    settings: "Settings",
    store: Path,
    *,
    fresh: bool = False,
    executor: "Executor | None" = None,
    budget: "Budget | None" = None,
) -> tuple[Path, int]:
    """Measure a plan, or go on with an interrupted run of the same.

    Returns:
        The journal, and how many cells are left after a budget of time.
    """
    from harness.running.resume import begin
    from harness.running.runner import run
    from harness.store.folder import prepare
    from harness.store.runs import read_run
    from harness.support.progress import progress_bar
    from harness.support.signals import interrupt_once

    skipped = sum(bool(plan.skip) for plan in planned)
    total = len(planned) - skipped
    path = store  # until there is a journal in it
    for line in prepare(store):
        warn(line)
    try:
        with interrupt_once():
            session = begin(
                *(store, list(planned)),
                samples=settings.samples,
                plugins=settings.plugins,
                check=settings.check,
                fresh=fresh,
            )
            path = session.journal.path
            for line in session.lines:
                print_line(line, style="yellow")
            print_line(f"Measuring {total} cells into {path}; {skipped} are skipped.")
            with progress_bar(console) as show:

                def on_progress(progress: "Progress") -> None:
                    show(progress.done, progress.total, progress.doing)

                left = run(list(planned), session, settings, on_progress, executor, budget)
    except KeyboardInterrupt:
        done = 0 if path == store else len(read_run(path).measured)
        raise UserError(
            f"stopped; {done} of {total} cells are in {path}, "
            "and the same command goes on from there"
        ) from None
    except OSError as error:
        message = f"cannot write to {path}: {error.strerror or error}"
        if path != store:
            message += "; finished cells are in it, and the same command goes on from there"
        raise UserError(message) from None
    return path, left


def canonical_base(against: str | None, measured: set[str]) -> str | None:
    """Return the canonical spelling of `--against`."""
    from estimators.base.registry import ESTIMATORS

    base = ESTIMATORS.canonical(against) if against else None
    if base and base not in measured:
        raise OptionError(f"--against {base}: it is not among the measured estimators")
    return base


def print_run(journal: Path, against: str | None = None) -> int:
    """Print the table of a run and return the exit code: 1 where a cell went wrong, else 0."""
    from harness.store.runs import read_run

    print_table(journal, against)
    run = read_run(journal)
    if all(cell.status != "ok" for cell in run.cells):
        raise UserError("no cell could be measured; the reasons are above")
    return int(went_wrong(run))


def print_table(journal: Path, against: str | None = None) -> None:
    """Print the table of a run, where there is what it takes."""
    try:
        from harness.store.summary import print_summary
        from harness.store.table import load_run
    except ImportError as error:  # on a machine that only measures
        warn(f"No table: {error}. `metagrad summary` prints it where pandas is installed.")
    else:
        print_summary(load_run(journal), console, against)


def went_wrong(run: "Run") -> bool:
    """Return whether a cell of a run was to be measured and could not."""
    return any(cell.status not in ("ok", "skipped") for cell in run.cells)
