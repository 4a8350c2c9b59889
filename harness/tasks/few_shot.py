"""Few-shot classification of images: what all its families share."""

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
_EPISODE_STREAM = 2  # keeps these random streams apart from all others of the same seed


@dataclass(frozen=True)
class FewShot(TaskFamily):
    """Classify images of `ways` classes, from `shots` examples of each.

    Attributes:
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        family: its name, for messages.
        brightest: the pixel value that becomes 1.

    Raises:
        OptionError: an option is out of its range.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15

    family: ClassVar[str]
    brightest: ClassVar[float] = 255.0
    step_size = 0.01

    def __post_init__(self) -> None:
        if self.ways < 2:
            raise OptionError(
                f"{self.family}: ways={self.ways} leaves nothing to tell apart; 2 or more"
            )
        for option in ("shots", "queries"):
            if getattr(self, option) < 1:
                raise OptionError(
                    f"{self.family}: {option}={getattr(self, option)} is not at least 1"
                )

    @property
    def outputs(self) -> int:
        """Logits a model must return: one a class."""
        return self.ways

    @abstractmethod
    def counts(self, split: str) -> NDArray[np.intp]:
        """Returns how many images each class of a split has.

        Args:
            split: "train", "validation" or "test".
        """

    @abstractmethod
    def class_name(self, split: str, number: int) -> str:
        """Returns what a class is called in messages.

        Args:
            split: see `counts`.
            number: its place there.
        """

    @abstractmethod
    def pictures(self, split: str, number: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Returns some images of a class, uint8 [images, channels, height, width].

        Args:
            split: see `counts`.
            number: the class's place there.
            places: which of its images.
        """

    def sample(self, seed: int, split: str = "train") -> Task:
        """The task that `seed` stands for.

        Inputs are float64 [images, channels, height, width] in [0, 1]; targets int64 [images] in
        0..ways-1, `shots` of each in the support and `queries` of each in the query. No image is
        in both.

        Raises:
            OptionError: there is no such split, it is too small, or `seed` is out of its range.
        """
        if seed < 0:
            raise OptionError(f"{self.family}: seed={seed} is negative; 0 or more")
        if seed > _LAST_SEED:
            raise OptionError(
                f"{self.family}: seed={seed} of a task is above {_LAST_SEED}; the seed of a cell, "
                "which has a million tasks, is at most 4293"
            )
        key = np.random.SeedSequence((seed, _EPISODE_STREAM, split_number(split)))
        counts = self._sufficient(split)
        words = np.random.PCG64(key)
        # Sorting raw words draws without replacement, alike in all numpy versions.
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

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits [images, ways] against class indices [images], in nats."""
        return cross_entropy(outputs, targets)

    def _sufficient(self, split: str) -> NDArray[np.intp]:
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
                f"want {self.shots + self.queries}"
            )
        return counts

    def _batch(self, images: NDArray[np.uint8]) -> Batch:
        """Inputs and targets of images [ways, per class, ...], class by class."""
        ways, each = images.shape[:2]
        inputs = torch.from_numpy(images.reshape(ways * each, *images.shape[2:]) / self.brightest)
        return inputs, torch.arange(ways).repeat_interleave(each)
