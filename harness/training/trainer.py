"""Meta-training with an estimator, recorded along the way, that goes on where it was stopped."""

import math
import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from estimators import BilevelProblem, Estimator, Params, create, estimate_batch
from estimators.base.errors import OptionError
from estimators.base.tree import norm, scaled
from estimators.methods.options import Compilable
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Diverged
from harness.matrix.pretraining import batching_for
from harness.matrix.problems import TASKS_A_SEED, Sampler
from harness.probes.bias import cosine_distance, relative_error
from harness.probes.curvature import largest_curvature
from harness.probes.memory import peak_and_retained, profiled_peak
from harness.store.trainings import Split, TrainingJournal
from harness.training.checkpoints import Checkpoint
from harness.training.config import OPTIMISERS, TrainingConfig
from harness.training.distributed import ALONE, Ranks
from harness.training.evaluation import judge
from harness.training.prefetch import ahead
from harness.training.session import TestResult

# Apart from one another, since a family may draw the same task whatever the split. Training takes
# half of a seed's tasks at most.
_FIRST: dict[Split, int] = {
    **{"train": 0, "validation": TASKS_A_SEED * 5 // 10, "test": TASKS_A_SEED * 7 // 10}
}
_FIRST_PROBE = TASKS_A_SEED * 9 // 10
_MOST_PROBES = 10_000  # so that nothing is scored on what it was calibrated on
_SAVED_EVERY = 20.0  # seconds of work that a kill may cost

Told = Callable[[int, str], None]
"""Is told after a step how many were taken, and how good it was when it was judged last."""


class Trainer:
    """Trains as a recipe says.

    Steps of an optimiser along the mean estimate over a meta-batch. Tasks follow from the seed and
    the number of the step, so that a training that was stopped goes on to the same end, to the
    bit. Each `validate_every` steps it is judged on training and validation tasks; in the end,
    on test tasks, at the parameters that validated best.

    Attributes:
        state: where it is.
        saved_step: the step from which it goes on if it is stopped now; -1: it begins anew.

    Raises:
        OptionError: the file is a checkpoint, but none of this training; there are more ranks than
            tasks in a meta-batch, or they do not see the same checkpoint.
    """

    def __init__(
        self,
        recipe: TrainingConfig,
        journal: TrainingJournal | None,
        checkpoint: Path,
        digest: str,
        ranks: Ranks = ALONE,
    ) -> None:
        if ranks.count > recipe.meta_batch:
            raise OptionError(
                f"{ranks.count} processes are more than the {recipe.meta_batch} tasks of a "
                "meta-batch; start fewer, or take a larger --meta-batch"
            )
        cell = self._cell = recipe.cell
        if cell.device != "cpu" and ranks.count > 1:
            cell = self._cell = replace(cell, device=f"cuda:{ranks.local}")
        self._recipe, self._journal, self._path = recipe, journal, checkpoint
        self._ranks = ranks
        self._sampler = Sampler.of(cell, dtype=getattr(torch, cell.dtype), device=cell.device)
        named = self._sampler.module.named_parameters()
        self._params = {name: value for name, value in named if value.requires_grad}
        self._optimizer = OPTIMISERS[recipe.optimiser]([*self._params.values()], lr=recipe.rate)
        self._estimator = create(cell.estimator)
        self.state, self.saved_step = Checkpoint(digest), -1
        if checkpoint.exists():
            self._restore(Checkpoint.load(checkpoint, digest, self._theta()))
        steps = ranks.gathered({"step": [float(self.state.step)]})["step"]
        if len(set(steps)) > 1:
            raise OptionError(
                f"not all processes see {checkpoint}: the store must be in a folder that all share"
            )
        batch, theta = self._meta_batch(0), self._theta()
        self._batching = batching_for(create(cell.estimator), batch, theta)
        self._judging = batching_for(create("maml"), batch, theta)
        self._classifies = "accuracy" in judge(batch[:1], theta, "loop")
        self._seconds: list[float] = []
        self._last_event = self._last_save = time.perf_counter()

    def train(self, told: Told = lambda step, how: None) -> TestResult:
        """Trains to the end.

        Raises:
            Diverged: an estimate is not finite.
            OSError: the journal or the checkpoint cannot be written.
        """
        for how in self.steps():
            told(self.state.step, how)
        return self._tested()

    def steps(self) -> Generator[str]:
        """Takes one step after another, to the last or until patience is at an end.

        Yields:
            After each step, how good it was when it was judged last.

        Raises:
            Diverged: an estimate is not finite.
            OSError: the journal or the checkpoint cannot be written.
        """
        recipe, state = self._recipe, self.state
        if not state.step and not self._ranks.rank:
            self._record(0, "train", self._memory())
        how = self._judged()
        for step, problems in ahead(self._meta_batch, state.step, recipe.steps):
            if 0 < recipe.patience <= state.worse:
                return
            self._step(problems)
            state.step = step + 1
            how = self._judged()
            if time.perf_counter() > self._last_save + _SAVED_EVERY:
                self._save()
            yield how

    def _step(self, problems: list[BilevelProblem]) -> None:
        start = time.perf_counter()
        theta = self._theta()
        if self._estimator.needs_calibration:
            try:
                self._estimator.calibrate(self._probes(self._sampler), theta)
            except OptionError as error:  # of probes that are not finite any more
                raise Diverged(f"{error}, at step {self.state.step}") from None
        mean = estimate_batch(self._estimator, problems, theta, batching=self._batching).gradient
        if self._ranks.count > 1:
            total = self._ranks.summed(scaled(len(problems), mean))
            mean = scaled(1 / self._recipe.meta_batch, total)
        if not math.isfinite(norm(mean)):
            raise Diverged(f"the estimate of step {self.state.step} is not finite")
        for name, value in self._params.items():
            value.grad = mean[name]
        self._optimizer.step()
        self._seconds.append(time.perf_counter() - start)

    def _judged(self) -> str:
        """Judges the parameters where that is due; returns how good they were the last time."""
        recipe, state = self._recipe, self.state
        # A training that goes on may begin anywhere, and must be judged as one that never stopped.
        due = state.step % recipe.validate_every == 0 or state.step == recipe.steps
        if due and state.judged_step < state.step:
            training = self._judge("train", recipe.validation_tasks)
            self._record(state.step, "train", training | self._biased() | self._timed())
            validation = self._judge("validation", recipe.validation_tasks)
            self._record(state.step, "validation", validation)
            self._score(validation)
            self._save()
        if not math.isfinite(state.score):
            return "loss not finite"
        return f"accuracy {state.score:.1%}" if self._classifies else f"loss {-state.score:.3g}"

    def _score(self, samples: Samples) -> None:
        """Keeps the parameters if they are the best so far."""
        state = self.state
        metric, sign = ("accuracy", 1.0) if self._classifies else ("outer_loss", -1.0)
        score = sign * statistics.fmean(samples[metric])
        state.judged_step, state.score = state.step, score if math.isfinite(score) else -math.inf
        if state.score > state.best_score or not state.best_params:
            state.best_step, state.best_score, state.worse = state.step, state.score, 0
            state.best_params = {name: value.clone() for name, value in self._theta().items()}
        else:
            state.worse += 1

    def _tested(self) -> TestResult:
        state = self.state
        samples = self._judge("test", self._recipe.test_tasks, state.best_params)
        self._record(state.best_step, "test", samples)
        return TestResult(state.step, state.best_step, samples)

    def _judge(self, split: Split, count: int, theta: Params | None = None) -> Samples:
        first = _FIRST[split]
        problems = [
            self._sampler.problem(index, split, depth=self._recipe.test_depth)
            for index in self._ranks.share(range(first, first + count))
        ]
        mine = judge(problems, theta or self._theta(), self._judging)
        return self._ranks.gathered(mine)

    def _biased(self) -> Samples:
        """Compares the estimate with the exact meta-gradient in float64, where that is wanted."""
        every = self._recipe.bias_every
        if not every or self.state.step % every:
            return {}
        sampler = Sampler.of(self._cell, dtype=torch.float64, device=self._cell.device)
        theta = {name: value.double() for name, value in self._theta().items()}
        exact, estimator = create("adjoint"), self._copy()
        if estimator.needs_calibration:
            estimator.calibrate(self._probes(sampler), theta)
        samples: Samples = {"bias": [], "cosine_distance": [], "curvature": []}
        for index in self._ranks.share(range(self._recipe.bias_tasks)):
            problem = sampler.problem(_FIRST_PROBE + _MOST_PROBES + index)
            reference = exact(problem, theta).gradient
            estimate = estimator(problem, theta).gradient
            samples["bias"].append(relative_error(estimate, reference))
            samples["cosine_distance"].append(cosine_distance(estimate, reference))
            samples["curvature"].append(largest_curvature(problem, theta))
        return self._ranks.gathered(samples)

    def _timed(self) -> Samples:
        """Returns seconds of a step, the median since the last time."""
        seconds, self._seconds = self._seconds, []
        return {"step_time": [statistics.median(seconds)]} if seconds else {}

    def _memory(self) -> Samples:
        """Returns the most bytes alive while a meta-batch is estimated."""
        estimator, problems, theta = self._copy(), self._meta_batch(0), self._theta()

        def work() -> None:
            estimate_batch(estimator, problems, theta, batching=self._batching)

        work()  # what is made once, as a compiled program, is no part of a step
        device = self._cell.device
        compiled = isinstance(estimator, Compilable) and estimator.compiled
        if compiled and device == "cpu":  # dispatch modes cannot look into a program
            return {"peak_memory": [profiled_peak(work)]}
        return {"peak_memory": [peak_and_retained(work, device)[0]]}

    def _copy(self) -> Estimator:
        """Returns the estimator as it is, whose calls do not count towards its next fit."""
        copy = create(self._cell.estimator)
        if (fitted := _fitted(self._estimator)) is not None:
            _fit(copy, fitted)
        return copy

    def _meta_batch(self, step: int) -> list[BilevelProblem]:
        size = self._recipe.meta_batch
        numbers = self._ranks.share(range(step * size, (step + 1) * size))
        return [self._sampler.problem(number) for number in numbers]

    def _probes(self, sampler: Sampler) -> list[BilevelProblem]:
        count = self._estimator.calibration_problems
        return [sampler.problem(_FIRST_PROBE + index) for index in range(count)]

    def _theta(self) -> Params:
        return {name: value.detach() for name, value in self._params.items()}

    def _record(self, step: int, split: Split, samples: Samples) -> None:
        now = time.perf_counter()
        if self._journal:
            self._journal.evaluation(step, split, samples, seconds=now - self._last_event)
        self._last_event = now

    def _save(self) -> None:
        if self._ranks.rank:
            return
        state = self.state
        state.params, state.optimizer = self._theta(), self._optimizer.state_dict()
        state.estimator = _fitted(self._estimator) or {}
        state.save(self._path)
        if self.saved_step < 0:  # what an estimator of a user's has fitted may be of any kind
            Checkpoint.load(self._path, state.training, self._theta())
        self.saved_step, self._last_save = state.step, time.perf_counter()

    def _restore(self, state: Checkpoint) -> None:
        self.state, self.saved_step = state, state.step
        state.best_params = {
            name: value.to(self._params[name].device) for name, value in state.best_params.items()
        }
        with torch.no_grad():
            for name, value in self._params.items():
                value.copy_(state.params[name])
        self._optimizer.load_state_dict(state.optimizer)
        if state.estimator:
            _fit(self._estimator, state.estimator)


def _fitted(estimator: Any) -> dict[str, Any] | None:
    """Returns what an estimator has fitted, if it is of a kind that fits anything."""
    return estimator.state_dict() if hasattr(estimator, "state_dict") else None


def _fit(estimator: Any, fitted: dict[str, Any]) -> None:
    estimator.load_state_dict(fitted)
