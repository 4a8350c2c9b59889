"""Images of noise: what other image sizes cost, without their data."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from estimators.base.errors import OptionError
from harness.tasks.draws import uniform
from harness.tasks.task import TASKS, Batch, Task, TaskFamily, split_number


@TASKS.register("noise:84x84-5way-1shot", size=84, channels=3, ways=5, shots=1)
@TASKS.register("noise:84x84-5way-5shot", size=84, channels=3, ways=5, shots=5)
@TASKS.register("noise")
@dataclass(frozen=True)
class Noise(TaskFamily):
    """Tell apart `ways` classes of images that are noise.

    Time, memory and FLOPs are those of real images of the size; `noise:84x84-...` has that of
    miniImageNet. Bias on noise says nothing about images.

    Attributes:
        size: height and width in pixels.
        channels: of an image.
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.

    Raises:
        OptionError: an option is below 1 (2 for `ways`).

    Example:
        >>> Noise(size=84, channels=3, shots=5).sample(seed=0).support[0].shape
        torch.Size([25, 3, 84, 84])
    """

    size: int = 28
    channels: int = 1
    ways: int = 5
    shots: int = 1
    queries: int = 15

    step_size = 0.01

    def __post_init__(self) -> None:
        for option in ("size", "channels", "ways", "shots", "queries"):
            least = 2 if option == "ways" else 1
            if getattr(self, option) < least:
                raise OptionError(f"noise: {option}={getattr(self, option)} is below {least}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return (self.channels, self.size, self.size)

    @property
    def outputs(self) -> int:
        """Logits a model must return: one a class."""
        return self.ways

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`; inputs are float64 in [0, 1), targets int64."""
        count = self.ways * (self.shots + self.queries)
        numbers = uniform((seed, split_number(split)), count * self.channels * self.size**2)
        images = torch.from_numpy(numbers).reshape(count, *self.input_shape)
        cut = self.ways * self.shots

        def labelled(inputs: Tensor) -> Batch:
            return inputs, torch.arange(len(inputs)) % self.ways

        return Task(labelled(images[:cut]), labelled(images[cut:]))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits [images, ways] against class indices [images], in nats."""
        return cross_entropy(outputs, targets)
