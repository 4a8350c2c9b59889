"""Images of noise: what other image sizes cost, without their data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.base.errors import OptionError
from harness.tasks.few_shot import Classification
from harness.tasks.task import TASKS, Batch, Task, split_number, uniform


@TASKS.register("noise:84x84-5way-1shot", size=84, channels=3, ways=5, shots=1)
@TASKS.register("noise:84x84-5way-5shot", size=84, channels=3, ways=5, shots=5)
@TASKS.register("noise")
@dataclass(frozen=True)
class Noise(Classification):
    """Tell apart `ways` classes of images that are noise.

    Time, memory and FLOPs are those of real images of the size; `noise:84x84-...` has that of
    miniImageNet. Bias on noise says nothing about images.

    Attributes:
        ways: classes per task.
        shots: support images per class.
        queries: query images per class.
        size: height and width in pixels.
        channels: of an image.

    Raises:
        OptionError: an option is below 1 (2 for `ways`).

    Example:
        >>> Noise(size=84, channels=3, shots=5).sample(seed=0).support[0].shape
        torch.Size([25, 3, 84, 84])
    """

    size: int = 28
    channels: int = 1

    family = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.channels < 1:
            raise OptionError(
                f"noise: size={self.size} and channels={self.channels} must be 1 or more"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[channels, height, width] of one image."""
        return (self.channels, self.size, self.size)

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`; inputs are float64 in [0, 1), targets int64."""
        count = self.ways * (self.shots + self.queries)
        numbers = uniform((seed, split_number(split)), count * self.channels * self.size**2)
        images = torch.from_numpy(numbers).reshape(count, *self.input_shape)
        cut = self.ways * self.shots

        def labelled(inputs: Tensor) -> Batch:
            return inputs, torch.arange(len(inputs), device="cpu") % self.ways

        return Task(labelled(images[:cut]), labelled(images[cut:]))
