"""`metagrad run`."""

from pathlib import Path
from typing import Annotated

import typer

from estimators.errors import OptionError
from harness.commands.cells import measure_with_progress
from harness.commands.ending import base_of, print_end
from harness.commands.options import Against, Imports, Only, Store, console


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
        typer.Option(min=1, help="Worker processes side by side.", show_default="cores, at most 8"),
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
    from harness.plan import expand, override, refuse_impossible
    from harness.plan import preset as read_preset
    from harness.plugins import load_plugins
    from harness.results.store import load_run
    from harness.running.runner import Settings
    from harness.selection import select

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
        tasks=tasks,
        step_size=step_size,
        trained=trained,
    )
    planned = select(expand(axes), only or [])
    refuse_impossible(planned, named=bool(estimator))
    base = base_of(against, {plan.cell.estimator for plan in planned})
    settings = Settings(
        jobs=jobs or Settings.jobs,
        samples=samples,
        time_limit=time_limit,
        memory_limit=memory_limit * 2**30 if memory_limit else None,
        plugins=tuple(imports),
    )
    if dry_run:
        from harness.running.dry_run import print_dry_run
        from harness.running.estimate import estimate

        with console.status("Timing a few gradients of each task and model"):
            expected = estimate(planned, settings)
        print_dry_run(expected, console)
        return 0
    path = measure_with_progress(planned, settings, store, fresh=fresh)
    return print_end(load_run(path), base)
