"""Tabular Markov decision processes with exact values: policies whose Hessian is exact, too."""

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from estimators import BilevelProblem, ModuleLoss
from estimators.base.errors import OptionError
from harness.tasks.tabular import Tabular, check_count, sampled
from harness.tasks.task import TASKS, Task, TaskFamily, split_number, uniform

_WORLD_STREAM = 0x4D4450  # separates the transitions' random stream from those of tasks


@TASKS.register("mdp")
@dataclass(frozen=True)
class Mdp(TaskFamily):
    r"""Maximise mean_s V_s, V = (I - discount P)^{-1} r, for the policy pi = softmax(outputs).

    P_st = sum_a pi_sa T_sat and r_s = sum_a pi_sa R_sa; the mean is over uniform initial states.
    Rows of inputs are the states, one-hot, so that the model `linear` is a table of logits. Tasks
    share the transitions T_sa ~ Dirichlet(concentration, ..., concentration) and differ in their
    rewards R_sa ~ U[0, 1]. Query rewards are R_sa + shift E_sa, E_sa ~ U[-1/2, 1/2]. Compiled
    estimators are refused without a horizon: torch 2.13 compiles no linear system within a loop.

    With a horizon, V is the discounted return of so many actions, and estimators that draw can draw
    episodes of that length: see `estimators.SampledProblem`. They are too many to be enumerated.

    Attributes:
        states: of the process, >= 2.
        actions: in each state, >= 2.
        discount: of the next step's value, in [0, 1).
        concentration: of the Dirichlet distribution, > 0; next states are nearly certain where it
            is small.
        world: 0 or more; the same number gives the same transitions.
        shift: how far query rewards are from those of the support, >= 0; 0 makes them the same.
        horizon: actions of an episode, >= 1; None for ever, of which no episodes can be drawn.
        episodes: how many are drawn for a gradient, >= 1.

    Source: the random processes of Tang, Kozuno, Rowland, Munos, Valko, "Unifying Gradient
    Estimators for Meta-Reinforcement Learning via Off-Policy Evaluation", NeurIPS 2021, arXiv
    2106.13125.

    Example:
        >>> transitions, rewards = Mdp(states=4, actions=3).sample(seed=0).support[1]
        >>> transitions.shape, rewards.shape
        (torch.Size([4, 3, 4]), torch.Size([4, 3]))
    """

    states: int = 20
    actions: int = 5
    discount: float = 0.8
    concentration: float = 0.001
    world: int = 0
    shift: float = 0.0
    horizon: int | None = None
    episodes: int = 20

    step_size = 3.0

    def __post_init__(self) -> None:
        if self.states < 2 or self.actions < 2:
            raise OptionError(
                f"mdp: states={self.states} and actions={self.actions} must be 2 or more"
            )
        if not 0 <= self.discount < 1:
            raise OptionError(f"mdp: discount={self.discount} must be 0 or more, and below 1")
        if not 0 < self.concentration < inf:
            raise OptionError(
                f"mdp: concentration={self.concentration} must be positive and finite"
            )
        if self.world < 0:
            raise OptionError(f"mdp: world={self.world} must be 0 or more")
        if not 0 <= self.shift < inf:
            raise OptionError(f"mdp: shift={self.shift} must be 0 or more, and finite")
        if self.horizon is not None:
            check_count("mdp: horizon", self.horizon)
        check_count("mdp: episodes", self.episodes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One state, one-hot."""
        return (self.states,)

    @property
    def outputs(self) -> int:
        """One logit for each action."""
        return self.actions

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`.

        Targets are the transitions T, float64 [states, actions, states], and the rewards R,
        float64 [states, actions].
        """
        shape = self.states, self.actions
        draws = uniform((seed, split_number(split)), 2 * self.states * self.actions)
        rewards, apart = torch.from_numpy(draws.reshape(2, *shape))
        transitions = _transitions(self.world, *shape, self.concentration).copy()
        tables = torch.from_numpy(transitions)
        inputs = torch.from_numpy(np.eye(self.states))

        def batch(rewards: Tensor) -> Any:
            return inputs, (tables, rewards)

        return Task(batch(rewards), batch(rewards + self.shift * (apart - 0.5)))

    def loss(self, outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        """-mean_s V_s; outputs are [states, actions], targets as `sample` returns them."""
        transitions, rewards = targets
        policy = outputs.softmax(-1)
        chain = torch.einsum("sa,sat->st", policy, transitions)
        gains = (policy * rewards).sum(-1, keepdim=True)
        values: Tensor
        if self.horizon is None:
            identity = torch.eye(len(chain), dtype=chain.dtype, device=chain.device)
            values = torch.linalg.solve(identity - self.discount * chain, gains)
        else:
            values = torch.zeros_like(gains)
            for _ in range(self.horizon):
                values = gains + self.discount * chain @ values
        return -values.mean()

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
        horizon = self.horizon
        if horizon is None:
            return problem

        def environment(loss: ModuleLoss) -> Tabular:
            transitions, rewards = loss.batch[1]
            return Tabular(loss.outputs, rewards, transitions, self.episodes, horizon)

        return sampled(problem, self.discount, environment)


@lru_cache(maxsize=4)
def _transitions(
    world: int, states: int, actions: int, concentration: float
) -> NDArray[np.float64]:
    """Draw from a Dirichlet distribution for each state and action, [states, actions, states].

    Its entries are Gamma(c) variates over their sum. Those underflow where c is small, so their
    logarithms are taken, by Gamma(c) = Gamma(c + 1) U^{1/c} for a uniform U.
    """
    from scipy.special import gammaincinv  # takes .2 s

    draws = uniform((world, _WORLD_STREAM), 2 * actions * states**2)
    u, v = draws.reshape(2, states, actions, states)
    powers = np.log1p(-u)
    powers -= powers.max(-1, keepdims=True)  # the greatest stays finite, however it is divided
    logs = powers / concentration + np.log(gammaincinv(concentration + 1, v))
    weights = np.exp(logs - logs.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))
