"""Environments with finitely many states and actions, to draw episodes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from estimators import (
    BilevelProblem,
    Environment,
    Episodes,
    ModuleLoss,
    Params,
    SampledProblem,
)
from estimators.base.errors import OptionError

_MOST_OUTCOMES = 10_000


@dataclass(frozen=True, eq=False)
class Tabular(Environment):
    """A table of rewards and, where states follow one another, of transition probabilities.

    Attributes:
        logits: maps parameters to a table of logits, [states, actions].
        rewards: [states, actions].
        transitions: [states, actions, states]; None where there is one state and episodes of one
            action.
        episodes: how many are drawn at a time.
        horizon: actions in each.
    """

    logits: Callable[[Params], Tensor]
    rewards: Tensor
    transitions: Tensor | None
    episodes: int
    horizon: int

    def draw(self, params: Params, generator: torch.Generator | None) -> Episodes:
        """See `Environment.draw`; the first state is drawn uniformly.

        Numbers are drawn in float64, so that another precision rarely makes other episodes.
        """
        device = self.rewards.device
        source = generator.device if generator else device
        numbers = torch.rand(
            (2, self.horizon, self.episodes),
            dtype=torch.float64,
            device=source,
            generator=generator,
        ).to(device)
        with torch.no_grad():
            policy = self._log_policy(params).double().exp().cumsum(-1)
        count = len(policy)
        states = [(numbers[1, 0] * count).long()]
        actions = [_drawn(policy[states[0]], numbers[0, 0])]
        for step in range(1, self.horizon):
            assert self.transitions is not None
            ahead = self.transitions[states[-1], actions[-1]].double().cumsum(-1)
            states.append(_drawn(ahead, numbers[1, step]))
            actions.append(_drawn(policy[states[-1]], numbers[0, step]))
        visited, taken = torch.stack(states, 1), torch.stack(actions, 1)
        return Episodes(visited, taken, self.rewards[visited, taken])

    def log_probabilities(self, params: Params, episodes: Episodes) -> Tensor:
        """See `Environment.log_probabilities`."""
        return self._log_policy(params)[episodes.observations, episodes.actions]

    def outcomes(self) -> Sequence[Episodes]:
        """See `Environment.outcomes`; of bandits that are small."""
        states, arms = self.rewards.shape
        if states > 1 or self.horizon > 1 or arms**self.episodes > _MOST_OUTCOMES:
            return ()
        actions = torch.tensor(
            list(product(range(arms), repeat=self.episodes)), device=self.rewards.device
        )[..., None]
        states_of = torch.zeros_like(actions)
        rewards = self.rewards[states_of, actions]
        return [Episodes(*each) for each in zip(states_of, actions, rewards, strict=True)]

    def _log_policy(self, params: Params) -> Tensor:
        return self.logits(params).log_softmax(-1)


def sampled(
    problem: BilevelProblem, discount: float, environment: Callable[[ModuleLoss], Tabular]
) -> SampledProblem:
    """Return a problem of exact gradients as one whose gradients can be drawn as well.

    Args:
        problem: from `module_problem`; its losses are minus the expected returns.
        discount: of the rewards.
        environment: makes that of inner steps, and that of the outer gradient, of their losses.
    """
    inner, outer = problem.inner_loss, problem.outer_loss
    assert isinstance(inner, ModuleLoss)
    assert isinstance(outer, ModuleLoss)
    return SampledProblem(
        **vars(problem), inner=environment(inner), outer=environment(outer), discount=discount
    )


def check_count(name: str, value: int) -> None:
    """Check that an option is 1 or more.

    Args:
        name: of family and option, as in messages.
        value: of the option.

    Raises:
        OptionError: it is not.
    """
    if value < 1:
        raise OptionError(f"{name}={value} must be 1 or more")


def _drawn(cumulative: Tensor, numbers: Tensor) -> Tensor:
    """Return places by inverse distribution functions, which end near 1."""
    below = (cumulative <= numbers[:, None]).sum(-1)
    return below.clamp(max=cumulative.shape[-1] - 1)
