"""`metagrad train`."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from estimators.base.errors import OptionError
from harness.commands.options import Imports, Store, console
from harness.commands.trainings import train_with_progress

if TYPE_CHECKING:
    from harness.training.parallel import TrainingResult


def train(
    preset: Annotated[
        str | None, typer.Argument(help="Preset: see `metagrad list`; or name what to train.")
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help='Estimators, as "binom(order=2)"; repeatable.')
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task, as glyphs:5way-1shot.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, as conv4-32.")] = None,
    depth: Annotated[
        list[int] | None,
        typer.Option(help="K, inner steps; repeatable.", show_default="the preset's, or 5"),
    ] = None,
    step_size: Annotated[float | None, typer.Option(help="alpha instead of the task's.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trainings of each, from seed 0 on.", show_default="the preset's, or 1"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Outer steps, at most.", show_default="20000")
    ] = None,
    optimiser: Annotated[
        str | None, typer.Option(help="Outer optimiser: adam or sgd.", show_default="adam")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the outer optimiser.", show_default="1e-3; imaml 5e-4"),
    ] = None,
    meta_batch: Annotated[
        int | None, typer.Option(help="Tasks of an outer step.", show_default="4")
    ] = None,
    test_depth: Annotated[
        int | None, typer.Option(help="Inner steps when it is judged.", show_default="10")
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Steps between validations.", show_default="200")
    ] = None,
    validation_tasks: Annotated[
        int | None, typer.Option(help="Tasks of a validation.", show_default="100")
    ] = None,
    test_tasks: Annotated[
        int | None, typer.Option(help="Tasks of the test at the end.", show_default="600")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Validations without a better one that end it.", show_default="none do"),
    ] = None,
    bias_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between measurements of bias, at validations.", show_default="none"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1.", show_default="cpu")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64.", show_default="float32")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trainings side by side.", show_default="cores, at most 8; 1 on a GPU"
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train anew what is done or was interrupted.")
    ] = False,
    store: Store = Path("results"),
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Meta-train with estimators, and test what comes out on tasks never seen.

    What options name stands in the place of the preset's; the defaults told below, which are those
    of the binomial method's paper, of what neither names.
    Stopped in any way, it goes on where it was when the same command is given again, to the same
    end to the bit; what is done already is not trained again.
    Exit code 0: all were trained; 1: some diverged or went wrong; 2: none could be trained.
    """
    from harness.support.plugins import load_plugins
    from harness.training import plan

    load_plugins(imports)
    if (task is None) != (model is None):
        raise OptionError("--task and --model go together, as --task sinusoid --model mlp-40-40")
    options = {
        "settings": [(task, model)] if task else None,
        "depths": depth,
        "estimators": estimator,
        **{"step_size": step_size, "seeds": seeds, "steps": steps, "optimiser": optimiser},
        **{"learning_rate": learning_rate, "meta_batch": meta_batch, "test_depth": test_depth},
        **{"validate_every": validate_every, "validation_tasks": validation_tasks},
        **{"test_tasks": test_tasks, "patience": patience, "bias_every": bias_every},
        **{"device": device, "dtype": dtype},
    }
    chosen = plan.preset(preset) if preset else {"depths": [5], "seeds": 1}
    given = {name: value for name, value in options.items() if value not in (None, [])}
    recipes = plan.recipes(chosen | given)
    ended = train_with_progress(recipes, store, tuple(imports), jobs=jobs, fresh=fresh)
    if any(one.trained for one in ended):
        console.print(_table(ended), highlight=False)
    failed = sum(one.trained is None for one in ended)
    return 0 if not failed else 1 if failed < len(ended) else 2


def _table(ended: "Sequence[TrainingResult]") -> Table:
    names = ("estimator", "seed", "steps", "best", "test")
    several = {
        axis: len({getattr(one.recipe.cell, axis) for one in ended}) > 1
        for axis in ("task", "model", "depth")
    }
    axes = [axis for axis, is_so in several.items() if is_so]
    table = Table(*axes, *names, box=None, pad_edge=False)
    for one in ended:
        if one.trained is None:
            continue
        cell = one.recipe.cell
        metric = "accuracy" if "accuracy" in one.trained.test else "outer_loss"
        values = one.trained.test[metric]
        mean, half = statistics.fmean(values), math.nan
        if values[1:] and math.isfinite(mean):
            half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
        shown = f"{mean:.2%} ± {half:.2%}" if metric == "accuracy" else f"{mean:.4g} ± {half:.2g}"
        table.add_row(
            *(escape(str(getattr(cell, axis))) for axis in axes),
            escape(cell.estimator),
            str(cell.seed),
            str(one.trained.step),
            str(one.trained.best_step),
            shown,
        )
    return table
