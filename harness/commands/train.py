"""`metagrad train`."""

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from estimators.errors import OptionError
from harness.commands.ending import unwritable
from harness.commands.options import Imports, Store, console

if TYPE_CHECKING:
    from harness.training.recipe import Recipe
    from harness.training.session import Trained


def train(
    estimator: Annotated[
        list[str], typer.Option(help='Estimators, as "binom(order=2)"; repeatable.')
    ],
    task: Annotated[str, typer.Option(help="Task, as glyphs:5way-1shot.")],
    model: Annotated[str, typer.Option(help="Model, as conv4-32.")],
    depth: Annotated[int, typer.Option(help="K, inner steps.")] = 5,
    step_size: Annotated[float | None, typer.Option(help="alpha instead of the task's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, from seed 0 on.")] = 1,
    steps: Annotated[int, typer.Option(help="Outer steps, at most.")] = 20_000,
    optimiser: Annotated[str, typer.Option(help="Outer optimiser: adam or sgd.")] = "adam",
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the outer optimiser.", show_default="1e-3; imaml 5e-4"),
    ] = None,
    meta_batch: Annotated[int, typer.Option(help="Tasks of an outer step.")] = 4,
    test_depth: Annotated[int, typer.Option(help="Inner steps when it is judged.")] = 10,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 200,
    validation_tasks: Annotated[int, typer.Option(help="Tasks of a validation.")] = 100,
    test_tasks: Annotated[int, typer.Option(help="Tasks of the test at the end.")] = 600,
    patience: Annotated[
        int, typer.Option(help="Validations without a better one that end it; 0: none does.")
    ] = 0,
    bias_every: Annotated[
        int, typer.Option(help="Steps between measurements of bias, at validations; 0: none.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train anew what is done or was interrupted.")
    ] = False,
    store: Store = Path("results"),
    imports: Imports = [],  # ruff: ignore[mutable-argument-default] (typer copies it)
) -> int:
    """Meta-train with estimators, and test what comes out on tasks never seen.

    Stopped in any way, it goes on where it was when the same command is given again, to the same
    end to the bit; what is done already is not trained again.
    Exit code 0: all were trained; 1: some diverged; 2: none could be trained.
    """
    from harness.cell import Cell
    from harness.plan import missing_device
    from harness.plugins import load_plugins
    from harness.training.recipe import Recipe

    load_plugins(imports)
    recipes = [
        Recipe(
            Cell.of(
                estimator=one,
                task=task,
                model=model,
                depth=depth,
                step_size=step_size,
                device=device,
                dtype=dtype,
                seed=seed,
            ),
            steps=steps,
            optimiser=optimiser,
            learning_rate=learning_rate,
            meta_batch=meta_batch,
            test_depth=test_depth,
            validate_every=validate_every,
            validation_tasks=validation_tasks,
            test_tasks=test_tasks,
            patience=patience,
            bias_every=bias_every,
        )
        for seed in range(seeds)
        for one in estimator
    ]
    for recipe in recipes:
        if hindrance := missing_device(recipe.cell.device) or recipe.cell.misfit():
            raise OptionError(hindrance)
    if bias_every % validate_every:
        raise OptionError(
            f"--bias-every {bias_every} must be a multiple of --validate-every {validate_every}"
        )
    ends = [_train(recipe, store, tuple(imports), fresh=fresh) for recipe in recipes]
    trained = [(recipe, end) for recipe, end in zip(recipes, ends, strict=True) if end is not None]
    if trained:
        console.print(_table(trained), highlight=False)
    failed = ends.count(None)
    return 0 if not failed else 1 if failed < len(ends) else 2


def _train(
    recipe: "Recipe", store: Path, plugins: tuple[str, ...], *, fresh: bool
) -> "Trained | None":
    """Trains, or takes what was trained; None where it diverged."""
    from harness.outcome import Diverged
    from harness.running.interruption import one_interruption
    from harness.running.progress import progress_bar
    from harness.training.session import begin
    from harness.training.trainer import Trainer

    cell, path, trainer = recipe.cell, store, None
    name = f"{cell.estimator}, seed {cell.seed}"
    try:
        with one_interruption():
            session = begin(store, recipe, plugins=plugins, fresh=fresh)
            path = session.path
            for line in session.told:
                _say(line, style="yellow")
            if session.journal is None:
                if isinstance(session.end, str):
                    raise Diverged(f"{session.end} ({path}; --fresh trains anew)")
                _say(f"{name}: done already, in {path}; --fresh trains anew.")
                return session.end
            trainer = Trainer(recipe, session.journal, session.checkpoint, session.digest)
            if session.goes_on is not None:
                session.journal.resume(session.goes_on)
            step = trainer.state.step
            _say(f"Training {name}, into {path}" + (f", from step {step} on" if step else ""))
            with progress_bar(console) as show:

                def told(done: int, how: str) -> None:
                    show(done, recipe.steps, f"step {done} of {recipe.steps}, {how}")

                trained = trainer.train(told)
            session.journal.end()
            return trained
    except Diverged as error:
        if session.journal is not None:
            session.journal.failed(str(error))
        typer.echo(f"metagrad: {name} diverged: {error}", err=True)
        return None
    except KeyboardInterrupt:
        saved = max(trainer.saved_step, 0) if trainer else 0
        raise OptionError(
            f"stopped at {name}; the same command goes on from its step {saved}"
        ) from None
    except OSError as error:
        then = "the same command goes on from where it was saved last"
        raise unwritable(error, path, store, then) from None


def _table(trained: "list[tuple[Recipe, Trained]]") -> Table:
    table = Table("estimator", "seed", "steps", "best", "test", box=None, pad_edge=False)
    for recipe, end in trained:
        metric = "accuracy" if "accuracy" in end.test else "outer_loss"
        values = end.test[metric]
        mean, half = statistics.fmean(values), math.nan
        if values[1:] and math.isfinite(mean):
            half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
        shown = f"{mean:.2%} ± {half:.2%}" if metric == "accuracy" else f"{mean:.4g} ± {half:.2g}"
        table.add_row(
            escape(recipe.cell.estimator),
            str(recipe.cell.seed),
            str(end.step),
            str(end.best_step),
            shown,
        )
    return table


def _say(line: str, style: str | None = None) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False, style=style)
