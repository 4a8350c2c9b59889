"""Tasks, and families of tasks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from estimators import BilevelProblem, module_problem
from estimators.base.errors import OptionError
from estimators.base.module_loss import Batch as Batch
from estimators.base.registry import Registry


@dataclass(frozen=True)
class Task:
    """A problem: a support set to adapt on and a query set to be judged on.

    Attributes:
        support: inputs [n, *input_shape] and targets [n, ...], on the CPU. Either may be nested
            tuples, lists or dicts of tensors, which model and loss get as they are. Floating-point
            numbers, best in float64, are converted to a cell's dtype; whole numbers (tokens,
            classes) and truth values stay as they are.
        query: likewise.
    """

    support: Batch
    query: Batch


class TaskFamily(ABC):
    """A distribution of tasks; subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        step_size: alpha, the default inner step size of the family.
    """

    step_size: float

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of outputs that a model must return for one input."""

    @abstractmethod
    def sample(self, seed: int, split: str = "train") -> Task:
        """Draw the task that belongs to a seed.

        Args:
            seed: 0 or more; the same seed gives the same task.
            split: "train", "validation" or "test"; no task of one is in another. Families of
                functions draw them from one distribution, those of images from other classes.
        """

    def data(self) -> str:
        """Return a digest of the user's files that tasks are made from; empty if there are none.

        Raises:
            UserError: the files are missing.
        """
        return ""

    def problem(
        self,
        module: nn.Module,
        task: Task,
        *,
        step_size: float,
        steps: int,
        check: bool = False,
    ) -> BilevelProblem:
        """Return the problem of adapting a module to a task: here by gradient descent on `loss`.

        Families with another inner loop override this.

        Args:
            module: that of a model, with theta as its parameters.
            task: in the precision and on the device of the module.
            step_size: alpha.
            steps: K.
            check: see `estimators.module_problem`.

        Raises:
            OptionError: see there.
        """
        return module_problem(
            module,
            self.loss,
            task.support,
            task.query,
            step_size=step_size,
            steps=steps,
            check=check,
        )

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the scalar loss of a model's outputs on a batch.

        Args:
            outputs: [n, outputs].
            targets: [n, ...], those of the batch.
        """


SPLITS = ("train", "test", "validation")  # random numbers follow from the order


def split_number(split: str) -> int:
    """Return the place of a split in `SPLITS`.

    Raises:
        OptionError: there is no such split.
    """
    if split not in SPLITS:
        raise OptionError(f"split={split!r} is none of {', '.join(SPLITS)}")
    return SPLITS.index(split)


def uniform(key: tuple[int, ...], size: int) -> NDArray[np.float64]:
    """Return uniform draws from [0, 1), the same for a key in every version of numpy.

    numpy promises the raw words of a bit generator for all versions, but not the streams of
    its distributions.

    Args:
        key: a seed and further whole numbers.
        size: how many draws.
    """
    words = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    return np.asarray((words >> np.uint64(11)) * 2.0**-53)


TASKS: Registry[TaskFamily] = Registry("task", "metagrad.tasks")
