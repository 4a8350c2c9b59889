"""Trains several recipes side by side, each in a process of its own; one takes no other down."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from estimators.base.errors import OptionError
from harness.environment.build import fixed_flags
from harness.matrix.outcome import Diverged, Outcome, Status
from harness.running import worker
from harness.running.processes import (
    Limits,
    refuse_full_disk,
    run_in_worker,
    usable_processors,
    worker_memory,
)
from harness.store.trainings import FOLDER, TrainingJournal
from harness.training.config import TrainingConfig
from harness.training.distributed import ALONE, Ranks, together
from harness.training.session import Session, TestResult, begin
from harness.training.trainer import Told, Trainer

Tell = Callable[[TrainingConfig, int, str], None]
"""Is told of a recipe how many steps it has taken, and how good it was when judged last."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        recipe: what was trained.
        outcome: how.
        trained: what came out; None unless the outcome is ok.
        name: of its journal in the store's folder of trainings; "" where there is none.
        told: what the user should know, a line each.
        known: whether it had ended before, and was not trained now.
    """

    recipe: TrainingConfig
    outcome: Outcome
    trained: TestResult | None = None
    name: str = ""
    told: Sequence[str] = ()
    known: bool = False


def train_all(
    recipes: Sequence[TrainingConfig],
    store: Path,
    *,
    jobs: int,
    plugins: tuple[str, ...] = (),
    fresh: bool = False,
    tell: Tell = lambda recipe, step, how: None,
) -> Iterator[TrainingResult]:
    """Trains each recipe, or goes on with it, or takes what was trained; see `begin`.

    Left early, as by Ctrl-C, it ends all processes; each training goes on from where it was saved.

    Yields:
        How each ended, in the order in which they do.

    Raises:
        OptionError: the store cannot be written, or the disk is full.
    """
    stop = threading.Event()
    jobs = min(jobs, len(recipes))
    limits = Limits(math.inf, worker_memory(jobs))
    try:
        (store / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot write to {store}: {error.strerror or error}") from None

    def work(recipe: TrainingConfig) -> TrainingResult:
        # What a process starts from may have another working folder.
        ending = run_in_worker(
            *(train_one, store.absolute(), recipe, plugins, fresh),
            limits=limits,
            plugins=plugins,
            stop=stop,
            tell=lambda turn: tell(recipe, turn.part, turn.told),
        )
        refuse_full_disk(ending)
        outcome = ending.outcome
        if outcome.status is Status.OUT_OF_MEMORY and jobs > 1:
            reason = f"{outcome.reason}; with fewer --jobs each may take more"
            outcome = replace(outcome, reason=reason)
        return ending.value or TrainingResult(recipe, outcome)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(work, recipe) for recipe in recipes]):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def train_together(
    recipes: Sequence[TrainingConfig],
    store: Path,
    *,
    plugins: tuple[str, ...] = (),
    fresh: bool = False,
    tell: Tell = lambda recipe, step, how: None,
) -> Iterator[TrainingResult]:
    """Trains one recipe after another in this process and those that torchrun has started with it.

    Yields:
        How each ended.
    """
    fixed_flags()
    gpus = any(recipe.cell.device != "cpu" for recipe in recipes)
    with together(gpus=gpus) as ranks:
        for recipe in recipes:
            yield train_one(
                *(store.absolute(), recipe, plugins, fresh),
                ranks=ranks,
                told=partial(tell, recipe),
            )


def train_one(
    store: Path,
    recipe: TrainingConfig,
    plugins: tuple[str, ...],
    fresh: bool,
    *,
    ranks: Ranks = ALONE,
    told: Told = worker.begin_part,
) -> TrainingResult:
    """Trains in this process.

    Raises:
        OptionError: another process is at work on it, or its checkpoint is none.
        OSError: the store cannot be written.
    """
    journals: list[TrainingJournal | None] = [None]

    def opened() -> Session:
        session = begin(store, recipe, plugins=plugins, fresh=fresh)
        journals.append(session.journal)
        return replace(session, journal=None)

    session, journal = ranks.first(opened), journals[-1]
    name, lines = session.path.name, tuple(session.told)
    if session.end is not None:
        outcome, trained = _read(session.end)
        return TrainingResult(recipe, outcome, trained, name, lines, known=True)
    trainer = Trainer(recipe, journal, session.checkpoint, session.digest, ranks)
    if journal and session.goes_on is not None:
        journal.resume(session.goes_on)
    try:
        end: TestResult | str = trainer.train(told)
    except Diverged as error:
        end = str(error)
        if journal:
            journal.failed(end)
    else:
        if journal:
            journal.end()
    outcome, trained = _read(end)
    return TrainingResult(recipe, outcome, trained, name, lines)


def default_jobs(recipes: Sequence[TrainingConfig]) -> int:
    """Returns how many trainings go side by side by default: one where a GPU takes them."""
    on_gpu = any(recipe.cell.device != "cpu" for recipe in recipes)
    return 1 if on_gpu else usable_processors(most=8)


def _read(end: TestResult | str | None) -> tuple[Outcome, TestResult | None]:
    if isinstance(end, TestResult):
        return Outcome(Status.OK), end
    return Outcome(Status.DIVERGED, end or ""), None
