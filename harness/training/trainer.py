"""Meta-training with an estimator, recorded as it goes, that can be stopped and resumed."""

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from estimators import BilevelProblem, Params, create, estimate_batch
from estimators.base.errors import OptionError, UserError
from estimators.base.tree import norm, scaled
from estimators.methods.options import Compilable
from harness.matrix.metrics import METRICS, Samples
from harness.matrix.notes import not_measured
from harness.matrix.outcome import Diverged
from harness.matrix.pretraining import batching_for
from harness.matrix.problems import TASKS_A_SEED, Sampler
from harness.probes.bias import Errors
from harness.probes.curvature import largest_curvature
from harness.probes.draws import generator_of, repeated
from harness.probes.memory import peak_and_retained, profiled_peak
from harness.store.trainings import Split, TrainingJournal
from harness.training.checkpoints import Checkpoint
from harness.training.compiling import Decision, decide, with_programs
from harness.training.config import OPTIMISERS, TrainingConfig
from harness.training.distributed import SINGLE, Ranks
from harness.training.evaluation import evaluate
from harness.training.session import TestResult

# Disjoint, since a family may draw the same task for every split. Training takes at most half of a
# seed's tasks.
_FIRST: dict[Split, int] = {
    **{"train": 0, "validation": TASKS_A_SEED * 5 // 10, "test": TASKS_A_SEED * 7 // 10}
}
_FIRST_OF_BIAS = TASKS_A_SEED * 91 // 100
_SAVE_EVERY = 20.0  # seconds of work that a kill may cost

OnStep = Callable[[int, str], None]
"""Called after each step with the number of steps taken and the score of the last validation."""

_T = TypeVar("_T")


class Trainer:
    """Train as a configuration says: an optimiser follows the mean estimate over a meta-batch.

    Tasks follow from the seed and the number of the step, so that a training that was stopped goes
    on to the same result, to the bit. Every `validate_every` steps it is evaluated on training and
    validation tasks; at the end, with the parameters that validated best, on test tasks.

    Attributes:
        state: the steps taken so far, and their parameters.
        saved_step: the step from which it goes on if it is stopped now; -1: from the beginning.
        notes: on what could not be measured, which does not end a training.
    """

    def __init__(
        self,
        config: TrainingConfig,
        journal: TrainingJournal | None,
        checkpoint: Path,
        digest: str,
        ranks: Ranks = SINGLE,
        *,
        check: bool = False,
    ) -> None:
        if ranks.count > config.meta_batch:
            raise OptionError(
                f"{ranks.count} processes are more than the {config.meta_batch} tasks of a "
                "meta-batch; start fewer, or take a larger --meta-batch"
            )
        cell = self._cell = config.cell
        if cell.device != "cpu" and ranks.count > 1:
            cell = self._cell = replace(cell, device=f"cuda:{ranks.local}")
        self._config, self._journal, self._path = config, journal, checkpoint
        self._ranks = ranks
        self._sampler = Sampler.of(cell, dtype=getattr(torch, cell.dtype), device=cell.device)
        if check:
            checked = replace(self._sampler, check=True)
            for split, first in _FIRST.items():
                checked.problem(first, split)
        named = self._sampler.module.named_parameters()
        self._params = {name: value for name, value in named if value.requires_grad}
        self._optimizer = OPTIMISERS[config.optimiser]([*self._params.values()], lr=config.rate)
        self.notes: list[str] = []
        self.state, self.saved_step = Checkpoint(digest), -1
        if checkpoint.exists():
            self._restore(Checkpoint.load(checkpoint, digest, self._theta()))
        steps = ranks.gather({"step": [float(self.saved_step)]})["step"]
        if len(set(steps)) > 1:
            raise UserError(
                f"not all processes see {checkpoint}: the store must be in a folder that all share"
            )
        batch, theta = self._meta_batch(0), self._theta()
        self._batching = batching_for(create(cell.estimator), batch, theta)
        if self.saved_step < 0:
            self._decide(batch)
        estimator = create(cell.estimator)
        self._estimator = with_programs(estimator) if self.state.compiled else estimator
        self._test_batching = batching_for(create("maml"), batch, theta)
        self._classifies = "accuracy" in evaluate(batch[:1], theta, "loop")
        self._seconds: list[float] = []
        self._last_event = self._last_save = time.perf_counter()

    def train(self, on_step: OnStep = lambda step, score: None) -> TestResult:
        """Train to the end and test."""
        for score in self.steps():
            on_step(self.state.step, score)
        return self._test()

    def steps(self) -> Generator[str]:
        """Take one step after another; after each, yield the last validation's score as text."""
        config, state = self._config, self.state
        if not state.step and not self._ranks.rank:
            self._record(0, "train", self._measured("peak memory", self._memory))
        score = self._validate()
        for step, problems in _prefetched(self._meta_batch, state.step, config.steps):
            if 0 < config.patience <= state.validations_since_best:
                return
            self._step(problems)
            state.step = step + 1
            score = self._validate()
            if time.perf_counter() > self._last_save + _SAVE_EVERY:
                self._save()
            yield score

    def _decide(self, batch: list[BilevelProblem]) -> None:
        """Decide whether the estimator is compiled; once, since that changes the rounding."""
        config, theta = self._config, self._theta()

        def decision() -> Decision:
            return decide(
                create(self._cell.estimator),
                theta,
                lambda each: estimate_batch(each, batch, theta, batching=self._batching),
                steps=config.steps,
                choice=config.compiled,
            )

        decided = self._ranks.from_first(decision)
        self.state.compiled = decided.compiled
        self.notes += [decided.reason] if decided.worth_telling else []
        if self._journal:
            self._journal.compilation(compiled=decided.compiled, reason=decided.reason)

    def _step(self, problems: list[BilevelProblem]) -> None:
        start = time.perf_counter()
        theta = self._theta()
        # Of a random estimator each process has tasks, and draws, of its own.
        key = self._cell.seed, self.state.step, self._ranks.rank
        mean = estimate_batch(
            self._estimator,
            problems,
            theta,
            batching=self._batching,
            generator=generator_of(*key),
        ).gradient
        if self._ranks.count > 1:
            total = self._ranks.sum(scaled(len(problems), mean))
            mean = scaled(1 / self._config.meta_batch, total)
        if not math.isfinite(norm(mean)):
            raise Diverged(f"the estimate of step {self.state.step} is not finite")
        for name, value in self._params.items():
            value.grad = mean[name]
        self._optimizer.step()
        self._seconds.append(time.perf_counter() - start)

    def _validate(self) -> str:
        """Evaluate the parameters where that is due, and return the last score as text."""
        config, state = self._config, self.state
        # A training that goes on may start at any step, and must be evaluated at the same ones.
        due = state.step % config.validate_every == 0 or state.step == config.steps
        if due and state.evaluated_step < state.step:
            training = self._evaluate("train", config.validation_tasks)
            self._record(state.step, "train", training | self._bias() | self._time())
            validation = self._evaluate("validation", config.validation_tasks)
            self._record(state.step, "validation", validation)
            self._score(validation)
            self._save()
        if not math.isfinite(state.score):
            return "loss not finite"
        return f"accuracy {state.score:.1%}" if self._classifies else f"loss {-state.score:.3g}"

    def _score(self, samples: Samples) -> None:
        """Keep the parameters if they are the best so far."""
        state = self.state
        metric, sign = ("accuracy", 1.0) if self._classifies else ("outer_loss", -1.0)
        score = sign * statistics.fmean(samples[metric])
        state.score = score if math.isfinite(score) else -math.inf
        state.evaluated_step = state.step
        if state.score > state.best_score or not state.best_params:
            state.best_step, state.best_score = state.step, state.score
            state.validations_since_best = 0
            state.best_params = {name: value.clone() for name, value in self._theta().items()}
        else:
            state.validations_since_best += 1

    def _test(self) -> TestResult:
        state = self.state
        samples = self._evaluate("test", self._config.test_tasks, state.best_params)
        self._record(state.best_step, "test", samples)
        return TestResult(state.step, state.best_step, samples)

    def _evaluate(self, split: Split, count: int, theta: Params | None = None) -> Samples:
        first = _FIRST[split]
        problems = [
            self._sampler.problem(index, split, depth=self._config.test_depth)
            for index in self._ranks.share(range(first, first + count))
        ]
        samples = evaluate(problems, theta or self._theta(), self._test_batching)
        return self._ranks.gather(samples)

    def _bias(self) -> Samples:
        """Compare the estimate with the exact meta-gradient in float64, where that is due."""
        every = self._config.bias_every
        if not every or self.state.step % every:
            return {}
        bias = self._of_all_ranks("bias", self._own_bias)
        label = METRICS["curvature"].label
        return bias and bias | self._of_all_ranks(label, self._own_curvature)

    def _of_all_ranks(self, what: str, measure: Callable[[], Samples]) -> Samples:
        mine = self._measured(what, measure)
        missing = self._ranks.gather({"missing": [float(not mine)]})["missing"]
        return {} if any(missing) else self._ranks.gather(mine)

    def _own_bias(self) -> Samples:
        theta = self._float64_theta()
        # Not compiled, which would be once more for float64.
        exact, estimator = create("adjoint"), create(self._cell.estimator)
        errors = Errors()
        for index, problem in self._bias_problems():
            results = repeated(estimator, problem, theta, self._cell.seed, index)
            estimates = [result.gradient for result in results]
            errors.add(estimates, exact(problem, theta).gradient)
        return errors.by_task()

    def _own_curvature(self) -> Samples:
        theta = self._float64_theta()
        sizes = [largest_curvature(problem, theta) for _, problem in self._bias_problems()]
        return {"curvature": sizes}

    def _bias_problems(self) -> Iterator[tuple[int, BilevelProblem]]:
        sampler = Sampler.of(self._cell, dtype=torch.float64, device=self._cell.device)
        for index in self._ranks.share(range(self._config.bias_tasks)):
            yield index, sampler.problem(_FIRST_OF_BIAS + index)

    def _float64_theta(self) -> Params:
        return {name: value.double() for name, value in self._theta().items()}

    def _measured(self, what: str, measure: Callable[[], Samples]) -> Samples:
        """Return what is measured beside the training; nothing, and a note, where that fails."""
        try:
            return measure()
        except Exception as error:
            note = not_measured(what, error)
            self.notes += [note] if note not in self.notes else []
            return {}

    def _time(self) -> Samples:
        """Return the median seconds of a step since the last time."""
        seconds, self._seconds = self._seconds, []
        return {"step_time": [statistics.median(seconds)]} if seconds else {}

    def _memory(self) -> Samples:
        """Return the most bytes alive while a meta-batch is estimated."""
        estimator = self._estimator
        problems, theta = self._meta_batch(0), self._theta()

        def work() -> None:
            generator = generator_of(self._cell.seed)
            estimate_batch(estimator, problems, theta, batching=self._batching, generator=generator)

        work()  # the first call may compile, which is no part of a step
        device = self._cell.device
        compiled = isinstance(estimator, Compilable) and estimator.compiled
        if compiled and device == "cpu":  # dispatch modes cannot look into a program
            return {"peak_memory": [profiled_peak(work)]}
        return {"peak_memory": [peak_and_retained(work, device)[0]]}

    def _meta_batch(self, step: int) -> list[BilevelProblem]:
        size = self._config.meta_batch
        numbers = self._ranks.share(range(step * size, (step + 1) * size))
        return [self._sampler.problem(number) for number in numbers]

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
        state.save(self._path)
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


def _prefetched(make: Callable[[int], _T], first: int, end: int) -> Iterator[tuple[int, _T]]:
    """Yield each number with the result of `make`, while the next one is made in a thread."""
    with ThreadPoolExecutor(1, "meta-batches") as pool:
        following = pool.submit(make, first) if first < end else None
        for number in range(first, end):
            assert following is not None
            result = following.result()
            following = pool.submit(make, number + 1) if number + 1 < end else None
            yield number, result
