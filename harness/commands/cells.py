"""Measures the cells that a command asks for, and tells how it goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from estimators.base.errors import OptionError
from harness.commands.options import console

if TYPE_CHECKING:
    from harness.matrix.plan import Planned
    from harness.running.executor import Executor, Opened
    from harness.running.settings import Settings
    from harness.store.journal import Progress


def measure_with_progress(
    planned: "Sequence[Planned]",
    settings: "Settings",
    store: Path,
    *,
    fresh: bool = False,
    executor: "Executor | None" = None,
) -> Path:
    """Measures all, or goes on with a run of the same that was stopped.

    Returns:
        The journal.

    Raises:
        OptionError: it was stopped, or the store cannot be written.
    """
    from harness.running.resume import begin
    from harness.running.runner import run
    from harness.store.runs import read_run
    from harness.support.progress import progress_bar
    from harness.support.signals import interrupt_once

    skipped = sum(bool(plan.skip) for plan in planned)
    wanted = len(planned) - skipped
    path = store  # until there is a journal in it
    try:
        with interrupt_once():
            beginning = begin(
                *(store, list(planned)),
                samples=settings.samples,
                plugins=settings.plugins,
                fresh=fresh,
            )
            path = beginning.journal.path
            for line in beginning.told:
                console.print(line, highlight=False, soft_wrap=True, style="yellow", markup=False)
            console.print(
                f"Measuring {wanted} cells into {path}; {skipped} are skipped.",
                highlight=False,
                soft_wrap=True,
            )
            with progress_bar(console) as show:

                def tell(progress: "Progress") -> None:
                    show(progress.done, progress.total, progress.doing)

                run(list(planned), beginning, settings, tell, executor)
    except KeyboardInterrupt:
        ended = 0 if path == store else len(read_run(path).measured)
        raise OptionError(
            f"stopped; {ended} of {wanted} cells are in {path}, "
            "and the same command goes on from there"
        ) from None
    except OSError as error:
        why = error.strerror or error
        if path == store:
            raise OptionError(f"cannot write to {store}: {why}") from None
        raise OptionError(
            f"cannot write {path}: {why}; what was finished is in there, "
            "and the same command goes on from there"
        ) from None
    return path


def tell_beforehand(planned: "Sequence[Planned]", settings: "Settings", found: "Opened") -> None:
    """Tells what would be measured, for how long, and what would be asked of a cluster."""
    from harness.clusters.requests import print_asked
    from harness.running.dry_run import print_dry_run
    from harness.running.estimate import estimate

    with console.status("Timing a few gradients of each task and model"):
        expected = estimate(list(planned), settings, found.executor)
    print_dry_run(expected, console)
    if found.where:
        print_asked(found, list(planned), settings.samples, console)
