"""Bandits with the exact expectation of the reward: Hessians in a closed form."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from estimators import BilevelProblem
from estimators.base.errors import OptionError
from harness.tasks.tabular import Tabular, check_count, sampled
from harness.tasks.task import TASKS, Task, TaskFamily, split_number, uniform


@TASKS.register("bandit")
@dataclass(frozen=True)
class Bandit(TaskFamily):
    r"""Maximise J = sum_a pi_a r_a, pi = softmax(outputs), r_a ~ U[-1/2, 1/2].

    With the model `linear` the outputs are its weight. With d_a = pi_a (r_a - J), the gradient of
    J is d and its Hessian diag(d) - d pi^T - pi d^T, which is indefinite as a rule and moves along
    the inner loop. Query rewards are r_a + shift e_a, e_a ~ U[-1/2, 1/2].

    Attributes:
        arms: actions to choose from, >= 2.
        shift: how far query rewards are from those of the support, >= 0; 0 makes them the same.
        pulls: how many are drawn for a gradient, by estimators that draw, >= 1. Where there are few
            ways to draw them, as with pulls=2 of three arms, all are enumerated, and bias and
            spread are known.

    Example:
        >>> Bandit(arms=3).sample(seed=0).support[1].shape
        torch.Size([1, 3])
    """

    arms: int = 5
    shift: float = 0.5
    pulls: int = 20

    step_size = 1.0

    def __post_init__(self) -> None:
        if self.arms < 2:
            raise OptionError(f"bandit: arms={self.arms} must be 2 or more")
        if not 0 <= self.shift < inf:
            raise OptionError(f"bandit: shift={self.shift} must be 0 or more, and finite")
        check_count("bandit: pulls", self.pulls)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The number one: there is nothing to see."""
        return (1,)

    @property
    def outputs(self) -> int:
        """One logit for each arm."""
        return self.arms

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`; targets are the rewards r, float64 [1, arms]."""
        draws = uniform((seed, split_number(split)), 2 * self.arms).reshape(2, 1, self.arms)
        rewards, apart = torch.from_numpy(draws - 0.5)
        inputs = torch.ones(1, 1, dtype=torch.float64, device="cpu")
        return Task((inputs, rewards), (inputs, rewards + self.shift * apart))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """-J, the mean over rows; outputs and targets are [n, arms]."""
        return -(outputs.softmax(-1) * targets).sum(-1).mean()

    def problem(
        self,
        module: nn.Module,
        task: Task,
        *,
        step_size: float,
        steps: int,
        check: bool = False,
    ) -> BilevelProblem:
        """See `TaskFamily.problem`."""
        problem = super().problem(module, task, step_size=step_size, steps=steps, check=check)
        return sampled(
            problem, 1.0, lambda loss: Tabular(loss.outputs, loss.batch[1], None, self.pulls, 1)
        )
