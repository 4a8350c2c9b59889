"""`metagrad train`."""

import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from estimators.base.errors import UserError
from harness.commands import options
from harness.commands.options import console, option, print_error, print_line, warn
from harness.support.units import counted

if TYPE_CHECKING:
    from harness.training.config import TrainingConfig
    from harness.training.parallel import TrainingResult


_FORMS = {"accuracy": (".2%", ".2%"), "outer_loss": (".4g", ".2g")}
"""How a test and its interval are written."""


def train(
    preset: Annotated[
        str | None, typer.Argument(help="Preset: see `metagrad list`.", show_default="none")
    ] = None,
    estimators: options.Estimators = None,
    task: options.Task = None,
    model: options.Model = None,
    depths: options.Depths = None,
    step_size: options.StepSize = None,
    devices: options.Devices = None,
    dtypes: options.Dtypes = None,
    seeds: options.Seeds = None,
    steps: Annotated[int | None, option("Outer steps, at most.", default="20000")] = None,
    optimiser: Annotated[
        str | None, option("Outer optimiser: adam or sgd.", default="adam")
    ] = None,
    learning_rate: Annotated[
        float | None, option("Of the outer optimiser.", default="1e-3; imaml 5e-4")
    ] = None,
    meta_batch: Annotated[int | None, option("Tasks of an outer step.", default="4")] = None,
    test_depth: Annotated[
        int | None, option("Inner steps in validation and test.", default="10")
    ] = None,
    validate_every: Annotated[
        int | None, option("Steps between validations.", default="200")
    ] = None,
    validation_tasks: Annotated[int | None, option("Tasks of a validation.", default="100")] = None,
    test_tasks: Annotated[int | None, option("Tasks of the test.", default="600")] = None,
    patience: Annotated[
        int | None,
        option("Stop after so many validations without a better one.", default="never"),
    ] = None,
    bias_every: Annotated[
        int | None,
        option("Steps between measurements of bias, at validations.", default="none"),
    ] = None,
    compiled: Annotated[
        str | None,
        option(
            "Whether estimators are compiled: auto (where that pays within the training), yes, no.",
            default="auto",
        ),
    ] = None,
    jobs: options.Jobs = None,
    no_problem_check: options.NoProblemCheck = False,
    fresh: options.Fresh = False,
    store: options.Store = Path("results"),
    imports: options.Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Meta-train with estimators, and test the result on new tasks.

    Options replace the preset's values; without a preset, name estimators, a task and a model. The
    defaults shown here are those of the binomial method's paper, with 5 inner steps.
    An interrupted training goes on where it stopped when the same command is given again, to the
    same result to the bit; a finished one is not repeated.
    Exit code 0: all were trained; 1: some diverged or went wrong; 2: none could be trained.
    """
    from harness.matrix.plan import setting
    from harness.support.plugins import load_plugins
    from harness.training import plan

    plugins = load_plugins(imports)
    named = {
        "settings": setting(task, model),
        "estimators": estimators,
        "depths": depths,
        "devices": devices,
        "dtypes": dtypes,
        "seeds": seeds,
        "step_size": step_size,
        "steps": steps,
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "meta_batch": meta_batch,
        "test_depth": test_depth,
        "validate_every": validate_every,
        "validation_tasks": validation_tasks,
        "test_tasks": test_tasks,
        "patience": patience,
        "bias_every": bias_every,
        "compiled": compiled,
    }
    values = plan.preset(preset) if preset else {"depths": [5]}
    values |= {name: value for name, value in named.items() if value not in (None, [])}
    results = train_with_progress(
        *(plan.configs(values), store, plugins),
        jobs=jobs,
        check=not no_problem_check,
        fresh=fresh,
    )
    failed = sum(result.test is None for result in results)
    if failed < len(results):
        console.print(_table(results))
    return 0 if not failed else 1 if failed < len(results) else 2


def train_with_progress(
    configs: "Sequence[TrainingConfig]",
    store: Path,
    plugins: tuple[str, ...],
    *,
    jobs: int | None = None,
    check: bool = True,
    fresh: bool = False,
) -> "list[TrainingResult]":
    """Train with progress and messages; return the results in the order of the configurations."""
    from harness.store.folder import prepare
    from harness.store.trainings import FOLDER
    from harness.support.progress import progress_bar
    from harness.support.signals import interrupt_once
    from harness.training.distributed import under_torchrun
    from harness.training.parallel import default_jobs, train_all, train_distributed

    refuse_missing_data(configs)
    folder = store / FOLDER
    if distributed := under_torchrun():
        console.quiet = os.environ["RANK"] != "0"
    for line in prepare(store):
        warn(line)
    steps = dict.fromkeys(configs, 0)
    total = sum(config.steps for config in configs)
    results: dict[TrainingConfig, TrainingResult] = {}
    print_line(f"Training {counted(len(configs), 'training')} into {folder}")
    try:
        with interrupt_once(), progress_bar(console) as show:

            def on_progress(config: "TrainingConfig", step: int, score: str) -> None:
                steps[config] = step
                show(sum(steps.values()), total, f"{_name(config)}: step {step}, {score}")

            common: dict[str, Any] = {
                "plugins": plugins,
                "check": check,
                "fresh": fresh,
                "on_progress": on_progress,
            }
            finished = (
                train_distributed(configs, store, **common)
                if distributed
                else train_all(configs, store, jobs=jobs or default_jobs(configs), **common)
            )
            for result in finished:
                results[result.config] = result
                steps[result.config] = result.config.steps
                _print_result(result, folder)
    except KeyboardInterrupt:
        done = sum(result.test is not None for result in results.values())
        again = "the same command without --fresh" if fresh else "the same command"
        raise UserError(
            f"stopped; {done} of {counted(len(configs), 'training')} are done, in {folder}, "
            f"and {again} goes on with the others"
        ) from None
    return [results[config] for config in configs]


def refuse_missing_data(configs: "Sequence[TrainingConfig]") -> None:
    """Draw a task of each split, so that missing data are reported before anything else."""
    from harness.tasks import TASKS
    from harness.tasks.task import SPLITS

    for task in dict.fromkeys(config.cell.task for config in configs):
        for split in SPLITS:
            TASKS.create(task).sample(0, split)


def _print_result(result: "TrainingResult", folder: Path) -> None:
    """Print messages of a training, and why it failed if it did."""
    name, path = _name(result.config), folder / result.name
    for message in result.messages:
        print_line(f"{name}: {message}", style="yellow")
    if result.test is None:
        before = f" ({path}; --fresh trains anew)" if result.known else ""
        reason = f"{result.outcome.status}: {result.outcome.reason}{before}"
        print_error(f"{name}: {reason}")
    elif result.known:
        print_line(f"{name}: done already, in {path}; --fresh trains anew.")


def _table(results: "Sequence[TrainingResult]") -> Table:
    """Return estimators and tests, with a column for each other axis that differs."""
    varying = [
        axis
        for axis in ("task", "model", "depth", "device", "dtype")
        if len({getattr(result.config.cell, axis) for result in results}) > 1
    ]
    table = Table(
        *(*varying, "estimator", "seed", "steps", "best", "test"), box=None, pad_edge=False
    )
    for result in results:
        if result.test is None:
            continue
        cell, test = result.config.cell, result.test
        metric = "accuracy" if "accuracy" in test.samples else "outer_loss"
        values = test.samples[metric]
        mean, (form, digits) = statistics.fmean(values), _FORMS[metric]
        text = f"{mean:{form}}"
        if values[1:] and math.isfinite(mean):
            half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
            text += f" ± {half:{digits}}"
        axes = (getattr(cell, axis) for axis in (*varying, "estimator", "seed"))
        table.add_row(*map(escape, map(str, axes)), str(test.step), str(test.best_step), text)
    return table


def _name(config: "TrainingConfig") -> str:
    return f"{config.cell.estimator}, seed {config.cell.seed}"
