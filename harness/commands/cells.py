"""Measures the cells that a command asks for, and tells how it goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from estimators.errors import OptionError
from harness.commands.options import console

if TYPE_CHECKING:
    from harness.plan import Planned
    from harness.running.runner import Settings


def measure_with_progress(
    planned: "Sequence[Planned]", settings: "Settings", store: Path, *, fresh: bool = False
) -> Path:
    """Measures all, or goes on with a run of the same that was stopped.

    Args:
        planned: cells, and which to skip.
        settings: how to run.
        store: the folder of results.
        fresh: begin anew where an interrupted run could go on.

    Returns:
        The journal.

    Raises:
        OptionError: it was stopped, or the store cannot be written.
    """
    from harness.results.runs import read_run
    from harness.running.interruption import one_interruption
    from harness.running.progress import progress_bar
    from harness.running.resume import begin
    from harness.running.runner import run

    skipped = sum(bool(plan.skip) for plan in planned)
    wanted = len(planned) - skipped
    path = store  # until there is a journal in it
    try:
        with one_interruption():
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
                run(list(planned), beginning, settings, lambda p: show(p.done, p.total, p.doing))
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
