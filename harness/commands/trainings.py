"""Trains what a command asks for, and tells how it goes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from estimators.errors import OptionError
from harness.commands.options import console

if TYPE_CHECKING:
    from harness.training.many import Ended
    from harness.training.recipe import Recipe


def train_with_progress(
    recipes: "Sequence[Recipe]",
    store: Path,
    plugins: tuple[str, ...],
    *,
    jobs: int | None = None,
    fresh: bool = False,
) -> "list[Ended]":
    """Trains all, and tells how it goes.

    Args:
        recipes: what is trained.
        store: the folder of results.
        plugins: modules that were imported.
        jobs: trainings side by side; as many as fit if None.
        fresh: train anew what is done or was interrupted.

    Returns:
        How each ended, in the order of the recipes.

    Raises:
        OptionError: data of the user's are missing, or it was stopped.
    """
    from harness.results.trainings import FOLDER
    from harness.running.interruption import one_interruption
    from harness.running.progress import progress_bar
    from harness.training.many import default_jobs, train_all, train_together
    from harness.training.ranks import started_together

    refuse_missing_data(recipes)
    folder = store / FOLDER
    if among_others := started_together():
        console.quiet = os.environ["RANK"] != "0"
    taken = dict.fromkeys(recipes, 0)
    total = sum(recipe.steps for recipe in recipes)
    ended: dict[Recipe, Ended] = {}
    _say(f"Training {_counted(len(recipes))} into {folder}")
    try:
        with one_interruption(), progress_bar(console) as show:

            def tell(recipe: "Recipe", step: int, how: str) -> None:
                taken[recipe] = step
                show(sum(taken.values()), total, f"{_name(recipe)}: step {step}, {how}")

            how: dict[str, Any] = {"plugins": plugins, "fresh": fresh, "tell": tell}
            endings = (
                train_together(recipes, store, **how)
                if among_others
                else train_all(recipes, store, jobs=jobs or default_jobs(recipes), **how)
            )
            for one in endings:
                ended[one.recipe] = one
                taken[one.recipe] = one.recipe.steps
                for line in one.told:
                    _say(f"{_name(one.recipe)}: {line}", style="yellow")
                if one.known and one.trained:
                    known = f"{folder / one.name}; --fresh trains anew"
                    _say(f"{_name(one.recipe)}: done already, in {known}.")
                if not one.trained:
                    before = f" ({folder / one.name}; --fresh trains anew)" if one.known else ""
                    why = f"{one.outcome.status}: {one.outcome.reason}{before}"
                    typer.echo(f"metagrad: {_name(one.recipe)}: {why}", err=True)
    except KeyboardInterrupt:
        done = sum(one.trained is not None for one in ended.values())
        again = "the same command without --fresh" if fresh else "the same command"
        raise OptionError(
            f"stopped; {done} of {_counted(len(recipes))} are done, in {folder}, "
            f"and {again} goes on with the others"
        ) from None
    return [ended[recipe] for recipe in recipes]


def refuse_missing_data(recipes: "Sequence[Recipe]") -> None:
    """Draws a task of each kind, so that data that are not there are told before all else.

    Args:
        recipes: what is to be trained.

    Raises:
        OptionError: they are not there, or too few.
    """
    from harness.tasks import TASKS
    from harness.tasks.task import SPLITS

    for task in dict.fromkeys(recipe.cell.task for recipe in recipes):
        for split in SPLITS:
            TASKS.create(task).sample(0, split)


def _name(recipe: "Recipe") -> str:
    return f"{recipe.cell.estimator}, seed {recipe.cell.seed}"


def _counted(number: int) -> str:
    return f"{number} training" + "s" * (number != 1)


def _say(line: str, style: str | None = None) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False, style=style)
