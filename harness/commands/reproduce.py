"""Measures what reproduced figures and tables are made from, and tells how it goes."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.cells import measure_with_progress
from harness.commands.options import console
from harness.commands.trainings import train_with_progress

if TYPE_CHECKING:
    from harness.commands.paper import Sources


def measure(sources: "Sources", store: Path, jobs: int | None, *, fresh: bool = False) -> bool:
    """Measures cells and trains, but for what is in the store already.

    Returns:
        Whether all of it went well.

    Raises:
        OptionError: it was stopped, the store cannot be written, or data of the user's are missing.
    """
    from harness.running.resume import finished
    from harness.running.settings import Settings
    from harness.store.table import load_run

    planned, recipes = sources.planned(), sources.recipes()
    well = True
    if planned:
        settings = Settings(jobs=jobs or Settings.jobs, samples=sources.samples)
        path = None if fresh else finished(store, planned, samples=sources.samples)
        if path:
            console.print(
                f"{sources.cells}: measured already, in {path}; --fresh measures anew.",
                highlight=False,
                soft_wrap=True,
            )
        else:
            path = measure_with_progress(planned, settings, store, fresh=fresh)
        well = bool(load_run(path)["outcome"].isin(["ok", "skipped"]).all())
    if recipes:
        ended = train_with_progress(recipes, store, (), jobs=jobs, fresh=fresh)
        well = well and all(one.trained for one in ended)
    return well
