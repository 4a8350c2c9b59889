"""Sinusoid regression, the standard few-shot toy problem."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from estimators.base.errors import OptionError
from harness.tasks.task import TASKS, Batch, Task, TaskFamily, split_number, uniform


@TASKS.register("sinusoid")
@dataclass(frozen=True)
class Sinusoid(TaskFamily):
    """Regress y = A sin(x - phase), A ~ U[.1, 5], phase ~ U[0, pi], x ~ U[-5, 5].

    Attributes:
        shots: support points.
        queries: query points.
        test_scale: factor on the amplitudes of the test split, whose distribution then differs
            from those of training and validation.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", ICML 2017, section 5.1.

    Example:
        >>> Sinusoid(shots=10).sample(seed=0).support[0].shape
        torch.Size([10, 1])
    """

    shots: int = 10
    queries: int = 10
    test_scale: float = 1.0

    step_size = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.test_scale < math.inf:
            raise OptionError(f"sinusoid: test_scale={self.test_scale} must be positive and finite")
        if self.shots < 1 or self.queries < 1:
            raise OptionError(
                f"sinusoid: shots={self.shots} and queries={self.queries} must be 1 or more"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One number x."""
        return (1,)

    @property
    def outputs(self) -> int:
        """One number y."""
        return 1

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`; targets are float64 [n, 1]."""
        draws = uniform((seed, split_number(split)), 2 + self.shots + self.queries)
        amplitude, phase = 0.1 + 4.9 * draws[0], math.pi * draws[1]
        if split == "test":
            amplitude *= self.test_scale
        inputs = torch.from_numpy(-5 + 10 * draws[2:]).unsqueeze(1)

        def labelled(x: Tensor) -> Batch:
            return x, amplitude * torch.sin(x - phase)

        return Task(labelled(inputs[: self.shots]), labelled(inputs[self.shots :]))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(outputs, targets)
