"""From a cell to the bilevel problems that it stands for, and to its estimator."""

import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from estimators import BilevelProblem, Params, trainable
from estimators.base.errors import OptionError
from harness import models, tasks
from harness.cell import MOST_TRAINED, Cell
from harness.matrix.pretraining import META_BATCH, pretrain
from harness.models import MODELS
from harness.support import cache
from harness.tasks import TASKS, Task, TaskFamily

TASKS_A_SEED = 1_000_000
"""Tasks of each split that a seed has; no two seeds share one."""

NO_CHECK = "--no-problem-check"
"""The option of commands that leaves out the check of problems."""

_IN_THE_LIBRARY = "module_problem(..., check=False)"
_FIRST_TRAINED_ON = 100_000  # so that nothing is scored on what it was meta-trained on
assert _FIRST_TRAINED_ON + MOST_TRAINED * META_BATCH <= TASKS_A_SEED


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
    check: bool = False

    @classmethod
    def of(cls, cell: Cell, *, dtype: torch.dtype, device: str, check: bool = False) -> Self:
        """Build the module, at its initial parameters or where meta-training has led.

        Meta-training is taken up where the cache leaves off, in this very process.

        Args:
            cell: its task, model and seed.
            dtype: of parameters and data.
            device: likewise.
            check: whether to refuse problems of which estimates would be wrong.
        """
        family = TASKS.create(cell.task)
        module = MODELS.create(cell.model).build(family, cell.seed)
        # Unlike `Module.to`, which would take the imaginary parts of complex tensors away.
        every: Any = module._apply
        every(lambda tensor: tensor.to(device=device, dtype=_in(dtype, tensor)))
        if cell.trained:
            trained = checkpoint(replace(cell.chain, trained=cell.trained), check=check)
            module.load_state_dict(trained, strict=False)
        if check:
            _refuse_unseeded(family, cell)
        return cls(cell, family, module, dtype, device, check)

    @property
    def params(self) -> Params:
        """Theta, the parameters to measure at."""
        return trainable(self.module)

    def problem(
        self, index: int, split: str = "train", *, depth: int | None = None
    ) -> BilevelProblem:
        """Return the problem that one of the seed's tasks stands for.

        Raises:
            OptionError: a check was asked for and has found something.
        """
        with torch.device("cpu"):
            task = self.family.sample(self.cell.seed * TASKS_A_SEED + index, split)
        try:
            return self.family.problem(
                self.module,
                Task(*(tree_map(self._converted, batch) for batch in (task.support, task.query))),
                step_size=self.cell.step_size,
                steps=self.cell.depth if depth is None else depth,
                check=self.check,
            )
        except OptionError as error:
            raise OptionError(str(error).replace(_IN_THE_LIBRARY, NO_CHECK)) from error

    def _converted(self, data: object) -> object:
        """Return a copy on the device, since a family may use its tensors for the next task."""
        if not isinstance(data, Tensor):
            return data
        return data.to(device=self.device, dtype=_in(self.dtype, data), copy=True)


def _refuse_unseeded(family: TaskFamily, cell: Cell) -> None:
    """Refuse a family whose tasks do not follow from their seed: bias would be measured on others.

    Raises:
        OptionError: two draws of one task differ.
    """
    with torch.device("cpu"):
        one, other = (family.sample(cell.seed * TASKS_A_SEED) for _ in range(2))
    pairs = zip(*(tree_leaves([task.support, task.query]) for task in (one, other)), strict=False)
    if not all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor)):
        raise OptionError(
            f"task {cell.task!r} draws other data for the same seed: draw all from "
            "torch.Generator().manual_seed(seed)"
        )


def _in(dtype: torch.dtype, tensor: Tensor) -> torch.dtype:
    """Return the type of a tensor in a precision: whole numbers and truth values keep theirs."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def bilevel_problems(
    cell: Cell, indices: Iterable[int], *, dtype: torch.dtype, device: str, check: bool = False
) -> tuple[list[BilevelProblem], Params]:
    """Build some of a cell's tasks, counted from 0, with the parameters to measure at.

    Raises:
        OptionError: a check was asked for and has found something.
    """
    sampler = Sampler.of(cell, dtype=dtype, device=device, check=check)
    return [sampler.problem(index) for index in indices], sampler.params


@lru_cache(maxsize=4)
def checkpoint(cell: Cell, *, check: bool = False) -> Params:
    """Return theta after a cell's steps of exact meta-training, on tasks reserved for that.

    It is computed in float64 on the CPU whatever the cell's device, and so is the same for all.
    """
    untrained = replace(cell, trained=0)
    sampler = Sampler.of(untrained, dtype=torch.float64, device="cpu", check=check)

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
    cell: Cell, index: int, *, dtype: torch.dtype, device: str, check: bool = False
) -> tuple[BilevelProblem, Params]:
    """Build one of a cell's tasks with the parameters to measure at; see `bilevel_problems`."""
    (problem,), params = bilevel_problems(cell, [index], dtype=dtype, device=device, check=check)
    return problem, params
