"""From a cell to the bilevel problems that it stands for, and to its estimator."""

import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from torch import nn

from estimators import BilevelProblem, Estimator, Params, create, module_problem, trainable
from harness import models, tasks
from harness.cell import MOST_TRAINED, Cell
from harness.matrix.pretraining import META_BATCH, pretrain
from harness.models import MODELS
from harness.support import cache
from harness.tasks import TASKS, Batch, TaskFamily

TASKS_A_SEED = 1_000_000
"""Tasks of each split that a seed has; no two seeds share one."""

_FIRST_TRAINED_ON = 100_000  # so that nothing is scored on what it was meta-trained on
_FIRST_PROBE = 900_000  # so that no estimator is scored on what it was calibrated on
assert _FIRST_TRAINED_ON + MOST_TRAINED * META_BATCH <= _FIRST_PROBE


@dataclass(frozen=True)
class Sampler:
    """Draw a cell's tasks, as problems of one module that is built once.

    The module has the parameters to measure at; values are the same for every dtype and device, up
    to rounding.
    """

    cell: Cell
    family: TaskFamily
    module: nn.Module
    dtype: torch.dtype
    device: str

    @classmethod
    def of(cls, cell: Cell, *, dtype: torch.dtype, device: str) -> Self:
        """Build the module, at its initial parameters or where meta-training has led.

        Meta-training is taken up where the cache leaves off, in this very process.
        """
        family = TASKS.create(cell.task)
        module = MODELS.create(cell.model).build(family, cell.seed).to(device=device, dtype=dtype)
        if cell.trained:
            trained = checkpoint(replace(cell.chain, trained=cell.trained))
            module.load_state_dict(trained, strict=False)
        return cls(cell, family, module, dtype, device)

    @property
    def params(self) -> Params:
        """Theta, the parameters to measure at."""
        return trainable(self.module)

    def problem(
        self, index: int, split: str = "train", *, depth: int | None = None
    ) -> BilevelProblem:
        """Return the problem that one of the seed's tasks stands for."""
        task = self.family.sample(self.cell.seed * TASKS_A_SEED + index, split)
        return module_problem(
            self.module,
            self.family.loss,
            self._converted(task.support),
            self._converted(task.query),
            step_size=self.cell.step_size,
            steps=self.cell.depth if depth is None else depth,
        )

    def _converted(self, batch: Batch) -> Batch:
        inputs, targets = (tensor.to(self.device) for tensor in batch)
        floating = targets.is_floating_point()
        return inputs.to(self.dtype), targets.to(self.dtype) if floating else targets


def bilevel_problems(
    cell: Cell, indices: Iterable[int], *, dtype: torch.dtype, device: str
) -> tuple[list[BilevelProblem], Params]:
    """Build some of a cell's tasks, counted from 0, with the parameters to measure at."""
    sampler = Sampler.of(cell, dtype=dtype, device=device)
    return [sampler.problem(index) for index in indices], sampler.params


@lru_cache(maxsize=4)
def checkpoint(cell: Cell) -> Params:
    """Return theta after a cell's steps of exact meta-training, on tasks reserved for that.

    It is computed in float64 on the CPU whatever the cell's device, and so is the same for all.
    """
    sampler = Sampler.of(replace(cell, trained=0), dtype=torch.float64, device="cpu")

    def meta_batch(step: int) -> list[BilevelProblem]:
        first = _FIRST_TRAINED_ON + step * META_BATCH
        return [sampler.problem(index) for index in range(first, first + META_BATCH)]

    return pretrain(sampler.params, meta_batch, steps=cell.trained, origin=origin(cell))


def origin(cell: Cell) -> str:
    """Return a digest of the code and data that a cell's problems are made from."""
    family, model = TASKS.create(cell.task), MODELS.create(cell.model)
    modules = (sys.modules[type(each).__module__] for each in (family, model))
    files = {getattr(module, "__file__", None) for module in modules}
    packages = (Path(inspect.getfile(package)).parent for package in (tasks, models))
    sources = [Path(__file__), *packages]
    sources += sorted(Path(file) for file in files if file)
    return cache.digest(cell.task, cell.model, cell.seed, family.data(), *sources)


def bilevel_problem(
    cell: Cell, index: int, *, dtype: torch.dtype, device: str
) -> tuple[BilevelProblem, Params]:
    """Build one of a cell's tasks with the parameters to measure at; see `bilevel_problems`."""
    (problem,), params = bilevel_problems(cell, [index], dtype=dtype, device=device)
    return problem, params


def prepared_estimator(cell: Cell) -> Estimator:
    """Create a cell's estimator, calibrated where it wants to be.

    It is calibrated in float64 at the parameters that the cell is measured at, on tasks other
    than those that it is scored on.
    """
    estimator = create(cell.estimator)
    if estimator.needs_calibration:
        probes = range(_FIRST_PROBE, _FIRST_PROBE + estimator.calibration_problems)
        estimator.calibrate(
            *bilevel_problems(cell, probes, dtype=torch.float64, device=cell.device)
        )
    return estimator
