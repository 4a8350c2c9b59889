"""`metagrad run`."""

from pathlib import Path
from typing import Annotated

import typer

from estimators.errors import OptionError
from harness.commands.ending import base_of, print_end
from harness.commands.options import Against, Imports, Store, console


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
    samples: Annotated[int, typer.Option(min=6, help="Time samples of each cell.")] = 7,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes side by side.", show_default="cores, at most 8"),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds a piece of work may take.")] = 3600,
    against: Against = None,
    store: Store = Path("results"),
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> None:
    """Measure a preset, or what the options name, in this environment and working tree."""
    from harness.journal import Journal
    from harness.plan import expand, override, refuse_impossible
    from harness.plan import preset as read_preset
    from harness.plugins import load_plugins
    from harness.progress import progress_bar
    from harness.runner import Settings
    from harness.runner import run as run_plan
    from harness.store import load_run

    load_plugins(imports)
    if not time_limit > 0:
        raise OptionError(f"--time-limit {time_limit:g} must be positive")
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
    )
    planned = expand(axes)
    refuse_impossible(planned, named=bool(estimator))
    base = base_of(against, {plan.cell.estimator for plan in planned})
    try:
        journal = Journal(store)
    except OSError as error:
        raise OptionError(f"cannot write to {store}: {error.strerror}") from None
    skipped = sum(bool(plan.skip) for plan in planned)
    console.print(
        f"Measuring {len(planned) - skipped} cells into {journal.path}; {skipped} are skipped.",
        highlight=False,
        soft_wrap=True,
    )
    settings = Settings(
        jobs=jobs or Settings.jobs,
        samples=samples,
        time_limit=time_limit,
        plugins=tuple(imports),
    )
    try:
        with progress_bar(console) as show:
            run_plan(planned, journal, settings, lambda p: show(p.done, p.total, p.doing))
    except KeyboardInterrupt:
        raise OptionError(f"stopped; what was finished is in {journal.path}") from None
    except OSError as error:
        raise OptionError(f"cannot write {journal.path}: {error.strerror or error}") from None
    print_end(load_run(journal.path), base)
