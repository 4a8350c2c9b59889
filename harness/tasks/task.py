"""What a task is, and what a family of tasks must offer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from estimators.base.errors import OptionError
from estimators.base.module_loss import Batch as Batch
from estimators.base.registry import Registry


@dataclass(frozen=True)
class Task:
    """One problem: a support set to adapt on and a query set to be judged on.

    Attributes:
        support: inputs [n, *input_shape], float64 on the CPU, and targets [n, ...].
        query: likewise.
    """

    support: Batch
    query: Batch


class TaskFamily(ABC):
    """A distribution of tasks; subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        step_size: alpha, the inner step size that goes with the family by default.
    """

    step_size: float

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers a model must return for one input."""

    @abstractmethod
    def sample(self, seed: int, split: str = "train") -> Task:
        """Draws the task that belongs to a seed.

        Args:
            seed: 0 or more; the same seed gives the same task.
            split: "train", "validation" or "test"; no task of one is in another. Families of
                functions draw them from one distribution, those of images from other classes.
        """

    def data(self) -> str:
        """Returns a digest of the user's files that tasks are made from; empty if there are none.

        Raises:
            OptionError: they are not there.
        """
        return ""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the scalar loss of a model's outputs on a batch."""


SPLITS = ("train", "test", "validation")  # in this order since a task follows from its place


def split_number(split: str) -> int:
    """Returns the place of a split in `SPLITS`.

    Args:
        split: one of them.

    Raises:
        OptionError: it is none.
    """
    if split not in SPLITS:
        raise OptionError(f"split={split!r} is none of {', '.join(SPLITS)}")
    return SPLITS.index(split)


TASKS: Registry[TaskFamily] = Registry("task", "metagrad.tasks")
