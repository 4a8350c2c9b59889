"""The configuration of a meta-training: everything that its numbers depend on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from estimators.base.errors import OptionError
from estimators.base.registry import Spec
from harness.cell import Cell
from harness.matrix.problems import TASKS_A_SEED
from harness.store.trainings import TRAINING_AXES, Option, Training

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}

COMPILED = ("auto", "yes", "no")
_NOT_OUTER = ("cell", "learning_rate", "bias_every", "bias_tasks", "compiled")
_LEARNING_RATE = 1e-3
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "meta_batch", "validate_every"), (1, math.inf)),
    **dict.fromkeys(("validation_tasks", "test_tasks"), (1, TASKS_A_SEED // 10)),
    **dict.fromkeys(("test_depth", "patience", "bias_every"), (0, math.inf)),
}
_OWN_LEARNING_RATE = {"imaml": 5e-4}


@dataclass(frozen=True)
class TrainingConfig:
    """A meta-training; the defaults are the hyperparameters of the binomial method's paper.

    Attributes:
        steps: of the outer optimiser, at most.
        learning_rate: of the outer optimiser, which takes the mean over a meta-batch; None: the
            paper's for the estimator, 5e-4 for `imaml` and 1e-3 for all others.
        meta_batch: tasks of a step.
        test_depth: inner steps in validation and test.
        validation_tasks: tasks of each validation, and as many training tasks.
        patience: validations without a better one after which it ends; 0: never.
        bias_every: steps from one measurement of bias to the next; 0: none.
        compiled: whether the estimator runs by compiled programs, whose results are the same up to
            rounding: one of `COMPILED`; see `harness.training.compiling`.

    Source: the paper, section 5 and appendix; for 15 queries a class and 10 inner steps at test,
    the task's own options and `test_depth`.
    """

    cell: Cell
    steps: int = 20_000
    optimiser: str = "adam"
    learning_rate: float | None = None
    meta_batch: int = 4
    test_depth: int = 10
    validate_every: int = 200
    validation_tasks: int = 100
    test_tasks: int = 600
    patience: int = 0
    bias_every: int = 0
    bias_tasks: int = 8
    compiled: str = "auto"

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value, words = getattr(self, name), name.replace("_", " ")
            if value < least:
                raise OptionError(f"{words} {value} must be {least} or more")
            if value > most:
                raise OptionError(f"{words} {value} must be {most:,} or less")
        if self.bias_every % self.validate_every:
            raise OptionError(
                f"bias every {self.bias_every} steps must be a multiple of the "
                f"{self.validate_every} from one validation to the next"
            )
        if self.optimiser not in OPTIMISERS:
            known = " and ".join(OPTIMISERS)
            raise OptionError(f"unknown optimiser {self.optimiser!r}; there are {known}")
        if self.compiled not in COMPILED:
            raise OptionError(f"compiled {self.compiled!r} is none of {', '.join(COMPILED)}")
        if not 0 < self.rate < math.inf:
            raise OptionError(f"learning rate {self.rate} must be positive and finite")
        if self.steps * self.meta_batch > TASKS_A_SEED // 2:
            raise OptionError(
                f"{self.steps} steps of {self.meta_batch} tasks are more than the "
                f"{TASKS_A_SEED // 2:,} training tasks of a seed"
            )

    @property
    def rate(self) -> float:
        """The learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _OWN_LEARNING_RATE.get(Spec.parse(self.cell.estimator).name, _LEARNING_RATE)

    @property
    def training(self) -> Training:
        """The same as the journal stores it."""
        axes: dict[str, Any] = {key: getattr(self.cell, key) for key in TRAINING_AXES}
        named = (field.name for field in fields(self) if field.name not in _NOT_OUTER)
        outer: dict[str, Option] = {name: getattr(self, name) for name in named}
        # Estimators each at the paper's rate count as one setting, so that they are compared.
        outer["learning_rate"] = self.learning_rate or "own"
        return Training(**axes, outer=outer)
