"""`metagrad run` and `metagrad summary`."""

from math import isfinite
from pathlib import Path
from time import time
from typing import Annotated, Literal

from psutil import Process

from estimators.base.errors import OptionError, UserError
from harness.commands import options
from harness.commands.dry_run import print_dry_run
from harness.commands.measure import canonical_base, measure_cells, print_run, print_table
from harness.commands.options import console, option, print_line


def run(
    preset: options.Preset = "quick",
    estimators: options.Estimators = None,
    task: options.Task = None,
    model: options.Model = None,
    depths: options.Depths = None,
    step_size: options.StepSize = None,
    devices: options.Devices = None,
    dtypes: options.Dtypes = None,
    seeds: options.Seeds = None,
    trained: Annotated[
        list[int] | None,
        option(
            "Steps of exact meta-training before measuring; repeatable.",
            default="the preset's, or 0",
        ),
    ] = None,
    tasks: Annotated[
        int | None, option("Tasks over which bias is taken.", default="the preset's, or 8")
    ] = None,
    samples: Annotated[
        int, option("Time samples of each cell, 6 or more; 0: no times.", min=0)
    ] = 7,
    only: options.Only = None,
    dry_run: Annotated[
        bool, option("Show what would be measured, and for how long.", "--dry-run")
    ] = False,
    budget: Annotated[
        str | None,
        option(
            "Time after which to stop, as 90s, 9m, 1h; the same command goes on.",
            metavar="DURATION",
            default="no limit",
        ),
    ] = None,
    jobs: options.Jobs = None,
    executor: Annotated[
        Literal["local", "dask"],
        option("Where workers run: on this machine or on a Dask cluster; see docs/scaling.md."),
    ] = "local",
    scheduler: Annotated[
        str | None,
        option(
            "Of a running Dask scheduler, for --executor dask.",
            metavar="ADDRESS",
            default="workers on this machine",
        ),
    ] = None,
    time_limit: options.TimeLimit = 3600,
    memory_limit: options.MemoryLimit = None,
    no_problem_check: options.NoProblemCheck = False,
    fresh: options.Fresh = False,
    against: options.Against = None,
    store: options.Store = Path("results"),
    imports: options.Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Measure a preset, or what the options name, in this environment and working tree.

    Options replace the preset's values. An interrupted run goes on where it stopped when the same
    command is given again.
    Exit code 0: all cells were measured, or what --budget allows; 1: some went wrong; 2: none could
    be measured.
    """
    from harness.clusters.opening import open_executor
    from harness.matrix.plan import expand, override, refuse_impossible
    from harness.matrix.plan import preset as read_preset
    from harness.matrix.selection import select
    from harness.running.budget import Budget
    from harness.running.estimate import CostModel
    from harness.running.executor import Settings
    from harness.running.resume import finished
    from harness.support.plugins import load_plugins
    from harness.support.units import seconds_of

    try:
        seconds = seconds_of(budget) if budget is not None else 0.0
    except ValueError as error:
        raise OptionError(f"--budget {error}") from None
    if seconds and executor != "local":
        raise OptionError("--budget goes with --executor local")
    plugins = load_plugins(imports)
    if 0 < samples < 6:
        raise OptionError(
            f"--samples {samples} must be 6 or more for statistics, or 0 for no times"
        )
    axes = override(
        read_preset(preset),
        task=task,
        model=model,
        estimators=estimators,
        depths=depths,
        devices=devices,
        dtypes=dtypes,
        seeds=seeds,
        num_tasks=tasks,
        step_size=step_size,
        trained=trained,
    )
    settings = Settings(
        jobs=jobs or Settings.jobs,
        samples=samples,
        time_limit=time_limit,
        memory_limit=memory_limit * 2**30 if memory_limit else None,
        plugins=plugins,
        check=not no_problem_check,
    )
    # Errors are reported before a cluster is asked for workers.
    anywhere = select(expand(axes, missing=lambda device: None), only or [])
    refuse_impossible(anywhere, named=bool(estimators))
    base = canonical_base(against, {plan.cell.estimator for plan in anywhere})
    used = tuple(dict.fromkeys(plan.cell.device for plan in anywhere if not plan.skip))
    with open_executor(executor, settings, used, scheduler=scheduler, dry_run=dry_run) as workers:
        planned = select(expand(axes, missing=workers.missing), only or [])
        refuse_impossible(planned, named=bool(estimators))
        if dry_run:
            print_dry_run(planned, settings, workers)
            return 0
        spent = time() - Process().create_time()
        limited = Budget(seconds, CostModel(settings), spent) if seconds else None
        if limited and not fresh and (path := finished(store, planned, settings, well=False)):
            print_line(f"Measured already, in {path}; --fresh measures anew.")
            return print_run(path, base)
        path, left = measure_cells(
            *(planned, settings, store), fresh=fresh, executor=workers, budget=limited
        )
    if not (limited and left):
        return print_run(path, base)
    total = sum(not plan.skip for plan in planned)
    if left < total:
        print_table(path, base)
    progress = f"{total - left} of {total} cells are done, {left} remain"
    if not limited.begun:
        takes = f", of about {limited.refused:.0f} s" if isfinite(limited.refused) else ""
        raise UserError(f"{progress}; the next piece of work{takes} does not fit into {budget}")
    print_line(f"--budget {budget} is spent: {progress}; the same command goes on.")
    return 0


def summary(
    store: options.Store = Path("results"),
    against: options.Against = None,
    imports: options.Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> None:
    """Print the table of the newest run."""
    from harness.store.summary import print_summary
    from harness.store.table import journals, load_sound
    from harness.support.plugins import load_plugins

    load_plugins(imports)
    table = load_sound(store)
    newest = max(journals(store), key=lambda path: path.stat().st_mtime_ns)
    rows = table[table["run"] == newest.stem]
    print_summary(rows, console, canonical_base(against, set(rows["estimator"])))
