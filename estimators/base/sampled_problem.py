"""Inner loops whose gradients are drawn from episodes, as in reinforcement learning."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from estimators.base.errors import OptionError
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params


class Episodes(NamedTuple):
    """Episodes of one length T that were drawn with a policy, n of them.

    Attributes:
        observations: what the policy saw, such as states [n, T].
        actions: what it did, [n, T].
        rewards: [n, T].
    """

    observations: Any
    actions: Tensor
    rewards: Tensor


class Environment(ABC):
    """What episodes are drawn from, and the policy that acts in it."""

    @abstractmethod
    def draw(self, params: Params, generator: torch.Generator | None) -> Episodes:
        """Draw episodes; all randomness is the generator's.

        Args:
            params: of the policy; no graph is wanted.
            generator: None is torch's default one.
        """

    @abstractmethod
    def log_probabilities(self, params: Params, episodes: Episodes) -> Tensor:
        """Return the log-probabilities of the actions taken, [n, T], differentiable.

        Args:
            params: of the policy, not always those that it was drawn with.
            episodes: drawn before.
        """

    def outcomes(self) -> Sequence[Episodes]:
        """Return all that `draw` can return; nothing where that is too much.

        The probability of each is the product of those of its actions, so that the environment
        itself must not be random.
        """
        return ()


@dataclass(frozen=True, kw_only=True)
class SampledProblem(BilevelProblem):
    r"""Adaptation of a policy, whose exact gradients are known, but can be drawn as well.

    The losses are expectations, minus the expected return J. Estimators of exact gradients take
    the problem as any other, and so give its first truth. Others draw: see `naive`, `dice`, `lvc`
    and `loaded-dice`, whose inner steps phi_{k+1} = phi_k + alpha ghat(phi_k; tau_k) are taken
    along gradients that are drawn from episodes tau_k. There are two truths:

    - T1, the gradient of -J(phi_K) with exact inner steps;
    - T2, the gradient of the expectation over tau of -J(phi_K), with drawn inner steps.

    They differ where J, or the gradient that steps follow, is not linear in the parameters. An
    estimate without the score of the drawn episodes, whose distribution depends on theta, has a
    bias to both.

    Attributes:
        inner: what inner steps draw episodes from.
        outer: what the outer gradient does.
        discount: of the rewards, from 0 to 1.

    Raises:
        OptionError: a number is out of its range.

    Source: Vuorio et al., "No DICE: An Investigation of the Bias-Variance Tradeoff in
    Meta-Gradients", 2022, arXiv 2209.11303, for the two truths.
    """

    inner: Environment
    outer: Environment
    discount: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.discount <= 1:
            raise OptionError(f"discount={self.discount!r} must be between 0 and 1")
