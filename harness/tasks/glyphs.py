"""Few-shot glyph recognition: an Omniglot-like task family that needs no download."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from estimators.errors import OptionError
from harness.tasks.glyph_cache import DEFAULT_JITTER, load_images
from harness.tasks.glyph_images import SAMPLES, SIZE
from harness.tasks.glyph_strokes import split_indices
from harness.tasks.task import SPLITS, TASKS, Batch, Task, TaskFamily, split_number

_EPISODE_STREAM = 2  # keeps these random streams apart from all others of the same seed


@TASKS.register("glyphs:5way-1shot", ways=5, shots=1)
@TASKS.register("glyphs:5way-5shot", ways=5, shots=5)
@TASKS.register("glyphs:20way-1shot", ways=20, shots=1)
@TASKS.register("glyphs:20way-5shot", ways=20, shots=5)
@TASKS.register("glyphs")
@dataclass(frozen=True)
class Glyphs(TaskFamily):
    """Classify images of `ways` characters, from `shots` examples of each.

    Characters are the Hershey fonts', drawn with a shaky hand; whole alphabets are held out for
    the splits "validation" and "test". At the default jitter, nearest neighbours on raw pixels
    of held-out characters do about as well as on Omniglot.

    Attributes:
        ways: characters a task.
        shots: support images a character.
        queries: query images a character; shots and queries together at most 20.
        jitter: how shaky the hand is: 0 draws a character the same each time, 1 is the
            default, 10 the most.

    Raises:
        OptionError: an option is out of its range.

    Source: the Hershey fonts, by A. V. Hershey (data/NOTICE-hershey.txt).

    Example:
        >>> Glyphs(ways=5, shots=1).sample(seed=0).support[0].shape
        torch.Size([5, 1, 28, 28])
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    jitter: float = DEFAULT_JITTER

    step_size = 0.01

    def __post_init__(self) -> None:
        split, most = min(((s, len(split_indices(s))) for s in SPLITS), key=lambda pair: pair[1])
        if self.ways < 2:
            raise OptionError(f"glyphs: ways={self.ways} leaves nothing to tell apart; 2 or more")
        if self.ways > most:
            raise OptionError(
                f"glyphs: ways={self.ways} is more than the {most} classes of the {split} split"
            )
        for option in ("shots", "queries"):
            if getattr(self, option) < 1:
                raise OptionError(f"glyphs: {option}={getattr(self, option)} is not at least 1")
        if self.shots + self.queries > SAMPLES:
            raise OptionError(
                f"glyphs: shots={self.shots} and queries={self.queries} together are more than "
                f"the {SAMPLES} images of a class"
            )
        if not 0 <= self.jitter <= 10:
            raise OptionError(f"glyphs: jitter={self.jitter} is not between 0 and 10")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return (1, SIZE, SIZE)

    @property
    def outputs(self) -> int:
        """Logits a model must return: one a character."""
        return self.ways

    def sample(self, seed: int, split: str = "train") -> Task:
        """The task that `seed` stands for.

        Inputs are float64 [images, 1, 28, 28] in [0, 1], ink 1; targets int64 [images] in
        0..ways-1, `shots` of each in the support and `queries` of each in the query. No image is
        in both.

        Raises:
            OptionError: there is no such split, or `seed` is negative.
        """
        if seed < 0:
            raise OptionError(f"glyphs: seed={seed} is negative; 0 or more")
        classes = np.array(split_indices(split))
        key = np.random.SeedSequence((seed, _EPISODE_STREAM, split_number(split)))
        words = np.random.PCG64(key).random_raw(len(classes) + self.ways * SAMPLES)
        # Sorting raw words draws without replacement, alike in all numpy versions.
        chosen = classes[np.argsort(words[: len(classes)])[: self.ways]]
        order = np.argsort(words[len(classes) :].reshape(self.ways, SAMPLES), axis=1)
        images = load_images(self.jitter)[chosen[:, None], order]
        return Task(
            support=_batch(images[:, : self.shots]),
            query=_batch(images[:, self.shots : self.shots + self.queries]),
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits [images, ways] against class indices [images], in nats."""
        return cross_entropy(outputs, targets)


def _batch(images: NDArray[np.uint8]) -> Batch:
    """Inputs and targets of images [ways, per class, 28, 28], class by class."""
    ways, each = images.shape[:2]
    inputs = torch.from_numpy(images.reshape(ways * each, 1, SIZE, SIZE) / 255.0)
    return inputs, torch.arange(ways).repeat_interleave(each)
