"""Trainings side by side, each in a process where a failure ends no other."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from estimators.base.errors import UserError
from harness.environment.build import fixed_flags
from harness.matrix.notes import warnings_as_notes
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
from harness.training.distributed import SINGLE, Ranks, process_group
from harness.training.session import TestResult, TrainingSession, begin
from harness.training.trainer import OnStep, Trainer

OnProgress = Callable[[TrainingConfig, int, str], None]
"""Called with a training, its number of steps, and the score of its last validation."""


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training.

    Attributes:
        test: None unless the outcome is ok.
        name: of its journal in the store's folder of trainings; "" where there is none.
        messages: for the user, a line each.
        known: whether it had ended before, and was not trained now.
    """

    config: TrainingConfig
    outcome: Outcome
    test: TestResult | None = None
    name: str = ""
    messages: Sequence[str] = ()
    known: bool = False


def train_all(
    configs: Sequence[TrainingConfig],
    store: Path,
    *,
    jobs: int,
    plugins: tuple[str, ...] = (),
    check: bool = True,
    fresh: bool = False,
    on_progress: OnProgress = lambda config, step, score: None,
) -> Iterator[TrainingResult]:
    """Train each, resume it, or take its result from the store, in the order in which they end."""
    # Left early, as by Ctrl-C, it ends all processes.
    stop = threading.Event()
    jobs = min(jobs, len(configs))
    limits = Limits(math.inf, worker_memory(jobs))
    try:
        (store / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {store}: {error.strerror or error}") from None

    def train(config: TrainingConfig) -> TrainingResult:
        # The working folder of worker processes may be another.
        result = run_in_worker(
            *(train_one, store.absolute(), config, plugins, check, fresh),
            limits=limits,
            plugins=plugins,
            stop=stop,
            on_part=lambda part: on_progress(config, part.part, part.text),
        )
        refuse_full_disk(result)
        outcome = result.outcome
        if outcome.status is Status.OUT_OF_MEMORY and jobs > 1:
            reason = f"{outcome.reason}; with fewer --jobs each may take more"
            outcome = replace(outcome, reason=reason)
        return result.value or TrainingResult(config, outcome)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(train, config) for config in configs]):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def train_distributed(
    configs: Sequence[TrainingConfig],
    store: Path,
    *,
    plugins: tuple[str, ...] = (),
    check: bool = True,
    fresh: bool = False,
    on_progress: OnProgress = lambda config, step, score: None,
) -> Iterator[TrainingResult]:
    """Train one after another in this process together with the others of torchrun."""
    fixed_flags()
    with process_group(gpus=any(config.cell.device != "cpu" for config in configs)) as ranks:
        for config in configs:
            yield train_one(
                *(store.absolute(), config, plugins, check, fresh),
                ranks=ranks,
                on_step=partial(on_progress, config),
            )


def train_one(
    store: Path,
    config: TrainingConfig,
    plugins: tuple[str, ...],
    check: bool,
    fresh: bool,
    *,
    ranks: Ranks = SINGLE,
    on_step: OnStep = worker.start_part,
) -> TrainingResult:
    """Train in this process."""
    journals: list[TrainingJournal | None] = [None]

    def begin_session() -> TrainingSession:
        session = begin(store, config, plugins=plugins, fresh=fresh)
        journals.append(session.journal)
        return replace(session, journal=None)  # an open file cannot be sent to other ranks

    session, journal = ranks.from_first(begin_session), journals[-1]
    end, lines = session.end, session.lines
    if end is None:
        with warnings_as_notes() as notes:
            files = session.checkpoint, session.digest
            trainer = Trainer(config, journal, *files, ranks, check=check)
            if journal and session.resumed is not None:
                journal.resume(session.resumed)
            try:
                end = trainer.train(on_step)
            except Diverged as error:
                end = str(error)
        lines = [*lines, *trainer.notes, *notes]
        if journal:
            journal.failed(end) if isinstance(end, str) else journal.end()
    test = end if isinstance(end, TestResult) else None
    return TrainingResult(
        config,
        Outcome(Status.OK) if test else Outcome(Status.DIVERGED, str(end)),
        test,
        session.path.name,
        tuple(lines),
        known=session.end is not None,
    )


def default_jobs(configs: Sequence[TrainingConfig]) -> int:
    """Return how many trainings run side by side by default: one where a GPU is used."""
    on_gpu = any(config.cell.device != "cpu" for config in configs)
    return 1 if on_gpu else usable_processors(most=8)
