"""`metagrad run`."""

from pathlib import Path
from typing import Annotated

import typer

from estimators.base.errors import OptionError
from harness.clusters.kind import Kind
from harness.commands.cells import measure_with_progress, tell_beforehand
from harness.commands.ending import base_of, print_end
from harness.commands.options import Against, Imports, Only, Store


def run(
    preset: Annotated[str, typer.Argument(help="Preset: see `metagrad list`.")] = "quick",
    estimator: Annotated[
        list[str] | None,
        typer.Option(help='Estimators instead of the preset\'s, as "binom(order=2)"; repeatable.'),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task instead of the preset's.")] = None,
    model: Annotated[str | None, typer.Option(help="Model instead of the preset's.")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Depths K instead; repeatable.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="cpu, cuda, cuda:1; repeatable.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32, float64; repeatable.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; repeatable.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Tasks that bias is taken over.")] = None,
    step_size: Annotated[float | None, typer.Option(help="alpha instead of the task's.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Time samples of each cell, 6 or more; 0: no times.")
    ] = 7,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Worker processes, or jobs of SLURM.", show_default="cores, at most 8"
        ),
    ] = None,
    executor: Annotated[
        Kind, typer.Option(help="Who does the work: see docs/scaling.md.", show_default=True)
    ] = Kind.LOCAL,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of a Dask scheduler that runs, for --executor dask.",
            show_default="workers on this machine",
        ),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds that a score or a time sample may take.")
    ] = 3600,
    memory_limit: Annotated[
        float | None,
        typer.Option(
            help="GiB that a worker process may take.", show_default="90 % of all, over the jobs"
        ),
    ] = None,
    only: Only = None,
    trained: Annotated[
        list[int] | None,
        typer.Option(help="Exact meta-training steps before measuring; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be measured, and for how long.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew where an interrupted run could go on.")
    ] = False,
    against: Against = None,
    store: Store = Path("results"),
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Measure a preset, or what the options name, in this environment and working tree.

    Stopped in any way, it goes on where it was when the same command is given again.
    Exit code 0: all cells were measured; 1: some went wrong; 2: none could be measured.
    """
    from harness.clusters.opening import opened
    from harness.matrix.plan import expand, override, refuse_impossible
    from harness.matrix.plan import preset as read_preset
    from harness.matrix.selection import select
    from harness.running.settings import Settings
    from harness.store.table import load_run
    from harness.support.plugins import load_plugins

    load_plugins(imports)
    if 0 < samples < 6:
        raise OptionError(
            f"--samples {samples} must be 6 or more for statistics, or 0 for no times"
        )
    for option, value in (("--time-limit", time_limit), ("--memory-limit", memory_limit)):
        if value is not None and not value > 0:
            raise OptionError(f"{option} {value:g} must be positive")
    axes = override(
        read_preset(preset),
        task=task,
        model=model,
        estimators=estimator,
        depths=depth,
        devices=device,
        dtypes=dtype,
        seeds=seed,
        num_tasks=tasks,
        step_size=step_size,
        trained=trained,
    )
    settings = Settings(
        jobs=jobs or Settings.jobs,
        samples=samples,
        time_limit=time_limit,
        memory_limit=memory_limit * 2**30 if memory_limit else None,
        plugins=tuple(imports),
    )
    # What is wrong is told before anyone is asked to work.
    anywhere = select(expand(axes, missing=lambda device: None), only or [])
    refuse_impossible(anywhere, named=bool(estimator))
    base = base_of(against, {plan.cell.estimator for plan in anywhere})
    devices = tuple(dict.fromkeys(plan.cell.device for plan in anywhere if not plan.skip))
    with opened(executor, settings, devices, scheduler=scheduler, dry=dry_run) as found:
        planned = select(expand(axes, missing=found.executor.missing), only or [])
        refuse_impossible(planned, named=bool(estimator))
        if dry_run:
            tell_beforehand(planned, settings, found)
            return 0
        path = measure_with_progress(planned, settings, store, fresh=fresh, executor=found.executor)
    return print_end(load_run(path), base)
