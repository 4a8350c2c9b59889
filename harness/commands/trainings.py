"""Trains what a command asks for, and tells how it goes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from estimators.base.errors import OptionError
from harness.commands.options import console

if TYPE_CHECKING:
    from harness.training.config import TrainingConfig
    from harness.training.parallel import TrainingResult


def train_with_progress(
    recipes: "Sequence[TrainingConfig]",
    store: Path,
    plugins: tuple[str, ...],
    *,
    jobs: int | None = None,
    fresh: bool = False,
) -> "list[TrainingResult]":
    """Trains all, and tells how it goes.

    Returns:
        How each ended, in the order of the recipes.

    Raises:
        OptionError: data of the user's are missing, or it was stopped.
    """
    from harness.store.trainings import FOLDER
    from harness.support.progress import progress_bar
    from harness.support.signals import interrupt_once
    from harness.training.distributed import started_together
    from harness.training.parallel import default_jobs, train_all, train_together

    refuse_missing_data(recipes)
    folder = store / FOLDER
    if among_others := started_together():
        console.quiet = os.environ["RANK"] != "0"
    taken = dict.fromkeys(recipes, 0)
    total = sum(recipe.steps for recipe in recipes)
    ended: dict[TrainingConfig, TrainingResult] = {}
    _say(f"Training {_counted(len(recipes))} into {folder}")
    try:
        with interrupt_once(), progress_bar(console) as show:

            def tell(recipe: "TrainingConfig", step: int, how: str) -> None:
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


def refuse_missing_data(recipes: "Sequence[TrainingConfig]") -> None:
    """Draws a task of each kind, so that data that are not there are told before all else.

    Raises:
        OptionError: they are not there, or too few.
    """
    from harness.tasks import TASKS
    from harness.tasks.task import SPLITS

    for task in dict.fromkeys(recipe.cell.task for recipe in recipes):
        for split in SPLITS:
            TASKS.create(task).sample(0, split)


def _name(recipe: "TrainingConfig") -> str:
    return f"{recipe.cell.estimator}, seed {recipe.cell.seed}"


def _counted(number: int) -> str:
    return f"{number} training" + "s" * (number != 1)


def _say(line: str, style: str | None = None) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False, style=style)
