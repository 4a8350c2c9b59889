"""Few-shot classification: the parts that all such families share."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from estimators.base.errors import OptionError
from harness.tasks.task import Batch, Task, TaskFamily, split_number

_LAST_SEED = 2**32 - 1  # a larger one is two words of the key, like a seed and what follows it
_TASK_STREAM = 2  # separates these random streams from all others of the same seed


@dataclass(frozen=True)
class Classification(TaskFamily):
    """Tell apart `ways` classes, from `shots` examples of each.

    Attributes:
        ways: classes per task.
        shots: support images per class.
        queries: query images per class.
        family: its name, for messages.

    Raises:
        OptionError: an option is out of its range.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15

    family: ClassVar[str]
    step_size = 0.01

    def __post_init__(self) -> None:
        for option, least in (("ways", 2), ("shots", 1), ("queries", 1)):
            if getattr(self, option) < least:
                raise OptionError(
                    f"{self.family}: {option}={getattr(self, option)} must be {least} or more"
                )

    @property
    def outputs(self) -> int:
        """Number of logits that a model must return: one per class."""
        return self.ways

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits [images, ways] against class indices [images], in nats."""
        return cross_entropy(outputs, targets)


@dataclass(frozen=True)
class FewShot(Classification):
    """Draw classes and images from a set of labelled images.

    Attributes:
        brightest: the pixel value that becomes 1.
    """

    brightest: ClassVar[float] = 255.0

    @abstractmethod
    def counts(self, split: str) -> NDArray[np.intp]:
        """Return how many images each class of a split has.

        Args:
            split: "train", "validation" or "test".
        """

    @abstractmethod
    def class_name(self, split: str, number: int) -> str:
        """Return the name of a class for messages.

        Args:
            split: see `counts`.
            number: the class's place there.
        """

    @abstractmethod
    def pictures(self, split: str, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return some images of a class, uint8 [images, channels, height, width].

        Args:
            split: see `counts`.
            number: the class's place there.
            places: of the images within the class.
        """

    def sample(self, seed: int, split: str = "train") -> Task:
        """Draw the task that belongs to a seed.

        Inputs are float64 [images, channels, height, width] in [0, 1]; targets int64 [images] in
        0..ways-1, `shots` of each in the support and `queries` of each in the query. No image is
        in both.

        Args:
            seed: 0 or more, and below 2^32.
            split: "train", "validation" or "test".

        Raises:
            OptionError: there is no such split, or `seed` is out of its range.
        """
        if not 0 <= seed <= _LAST_SEED:
            raise OptionError(
                f"{self.family}: seed={seed} of a task is not between 0 and {_LAST_SEED}; the seed "
                "of a cell, which has a million tasks, is at most 4293"
            )
        key = np.random.SeedSequence((seed, _TASK_STREAM, split_number(split)))
        counts = self.sufficient_counts(split)
        words = np.random.PCG64(key)
        # Sorting raw words draws without replacement, the same in all versions of numpy.
        chosen = np.argsort(words.random_raw(len(counts)))[: self.ways]
        orders = [np.argsort(words.random_raw(int(counts[number]))) for number in chosen]
        images = np.stack(
            [
                self.pictures(split, int(number), order[: self.shots + self.queries])
                for number, order in zip(chosen, orders, strict=True)
            ]
        )
        return Task(
            support=self._batch(images[:, : self.shots]),
            query=self._batch(images[:, self.shots :]),
        )

    def sufficient_counts(self, split: str) -> NDArray[np.intp]:
        """Return `counts`.

        Args:
            split: see `counts`.

        Raises:
            OptionError: a task needs more classes or images.
        """
        counts = self.counts(split)
        if len(counts) < self.ways:
            raise OptionError(
                f"{self.family}: ways={self.ways} is more than the {len(counts)} classes of the "
                f"{split} split"
            )
        fewest = int(counts.argmin())
        if counts[fewest] < self.shots + self.queries:
            raise OptionError(
                f"{self.family}: class {self.class_name(split, fewest)} of the {split} split has "
                f"{counts[fewest]} images, and shots={self.shots} and queries={self.queries} "
                f"need {self.shots + self.queries}"
            )
        return counts

    def _batch(self, images: NDArray[np.uint8]) -> Batch:
        """Return inputs and targets of images [ways, per class, ...], class by class."""
        ways, each = images.shape[:2]
        inputs = torch.from_numpy(images.reshape(ways * each, *images.shape[2:]) / self.brightest)
        return inputs, torch.arange(ways, device="cpu").repeat_interleave(each)
