"""The command `metagrad`."""

import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from estimators.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark meta-gradient estimators: bias, time, memory, FLOPs.",
)
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
"""Where tables and progress go; what is piped or kept in a file is not cut to a screen's width."""


Store = Annotated[Path, typer.Option("--store", envvar="METAGRAD_STORE", help="Folder of results.")]
Imports = Annotated[
    list[str],
    typer.Option("--import", metavar="MODULE", help="Module or file.py that registers more."),
]

Against = Annotated[
    str | None,
    typer.Option(help="Estimator that time and memory are compared with in the table."),
]


@app.command("list")
def list_everything(imports: Imports = []) -> None:  # ruff: ignore[mutable-argument-default] (typer copies it)
    """List estimators, tasks, models, presets and metrics."""
    from estimators.registry import ESTIMATORS
    from harness.metrics import METRICS
    from harness.models import MODELS
    from harness.plan import presets
    from harness.plugins import load_plugins
    from harness.tasks import TASKS

    load_plugins(imports)
    for registry in (ESTIMATORS, TASKS, MODELS):
        table = _columns(f"{registry.kind}s", "name", "options")
        for name in registry.available():
            options = registry.options(name).values()
            table.add_row(name, ", ".join(str(o).replace(" ", "") for o in options))
        console.print(table)
    table = _columns("presets", "name", "what")
    for name, about in presets().items():
        table.add_row(name, about)
    console.print(table)
    table = _columns("metrics", "name", "unit", "what")
    for metric in METRICS.values():
        table.add_row(metric.name, metric.unit, metric.about)
    console.print(table)


@app.command()
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
    base = _base(against, {plan.cell.estimator for plan in planned})
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
    _end(load_run(journal.path), base)


@app.command()
def check(
    estimator: Annotated[
        str, typer.Argument(metavar="SPEC", help='Estimator, as "binom(order=2)".')
    ],
    time_limit: Annotated[float, typer.Option(help="Seconds that a check may take.")] = 300,
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Check that an estimator keeps its contract, and tell whether it is exact or biased.

    Exit code 0: it does; 1: a check failed; 2: it could not be checked.
    """
    from harness.conformance.isolation import Suite
    from harness.conformance.report import print_report
    from harness.conformance.suite import Finding, Score, Verdict
    from harness.progress import progress_bar

    if not time_limit > 0:
        raise OptionError(f"--time-limit {time_limit:g} must be positive")
    suite = Suite(estimator, tuple(imports), time_limit)
    console.print(f"Checking {suite.spec}", highlight=False, markup=False)
    ended: list[Finding | Score] = []
    try:
        with progress_bar(console) as show:
            steps = [*suite.steps, "done"]
            show(0, len(suite.steps), steps[0])
            for end in suite.run():
                ended.append(end)
                show(len(ended), len(suite.steps), steps[len(ended)])
    except KeyboardInterrupt:
        raise OptionError(f"stopped at: {suite.steps[len(ended)]}") from None
    findings = [end for end in ended if isinstance(end, Finding)]
    scores = [end for end in ended if isinstance(end, Score)]
    print_report(suite.spec, findings, scores, console)
    return int(any(finding.verdict is Verdict.FAILED for finding in findings))


@app.command()
def summary(
    store: Store = Path("results"),
    against: Against = None,
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> None:
    """Print the table of the newest run."""
    from harness.plugins import load_plugins
    from harness.store import load_sound
    from harness.summary import print_summary

    load_plugins(imports)
    table = load_sound(store)
    newest = table[table["run"] == table["run"].max()]
    print_summary(newest, console, _base(against, set(newest["estimator"])))


@app.command()
def bench(store: Store = Path("results")) -> None:
    """Run the asv matrix on the current commit and print the table."""
    from harness.bench import run_asv
    from harness.store import load_run

    _end(load_run(run_asv(store, console)))


def main() -> None:
    """Runs the command line; a user's slip ends in one line and exit code 2."""
    try:
        for point in entry_points(group="metagrad.commands"):
            app.command(point.name)(_loaded(point))
        status = app(standalone_mode=False)
    except (OptionError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        if message:  # none: no command was given, and the help is there already
            line = " ".join(f"metagrad: {message}".split())
            Console(stderr=True, soft_wrap=True).print(line, markup=False, style="red")
        sys.exit(2)
    except typer.Abort:
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _loaded(point: EntryPoint) -> Callable[..., object]:
    try:
        command: Callable[..., object] = point.load()
    except Exception as error:
        raise OptionError(f"command {point.name} of {point.value} is broken: {error}") from error
    return command


def _base(against: str | None, measured: set[str]) -> str | None:
    """Returns the canonical spelling of `--against`.

    Raises:
        OptionError: it is not among what is measured.
    """
    from estimators.registry import ESTIMATORS

    base = ESTIMATORS.canonical(against) if against else None
    if base and base not in measured:
        raise OptionError(f"--against {base}: it is not among the estimators that are measured")
    return base


def _end(table: "pd.DataFrame", against: str | None = None) -> None:
    """Prints a run's table.

    Raises:
        OptionError: no cell of it was measured.
    """
    from harness.summary import print_summary

    print_summary(table, console, against)
    if not (table["outcome"] == "ok").any():
        raise OptionError("no cell could be measured; the reasons are above")


def _columns(title: str, *names: str) -> Table:
    table = Table(*names, title=title, title_justify="left", box=None, pad_edge=False)
    table.columns[0].style = "bold"
    return table
