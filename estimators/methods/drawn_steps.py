"""Inner steps along gradients that are drawn from episodes, as one draw of an inner map."""

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from estimators.base.differentiation import Loss, evaluate, gradient_at
from estimators.base.map_problem import MapProblem
from estimators.base.sampled_problem import Environment, Episodes, SampledProblem
from estimators.base.tree import Params, axpy, detached
from estimators.methods.surrogates import Surrogate, dice

_SCORE = "sum of log-probabilities"


class DrawnSteps:
    """One draw: episodes are drawn as the inner loop comes to a step for the first time.

    Args:
        sampled: the problem.
        generator: what is drawn from.
        surrogate: of the return, by which steps are differentiated.
        parts: what is drawn, of "inner", "hessian" and "outer".
        corrected: whether the outer loss has the score of all episodes, by which theta decides
            what is drawn.
    """

    def __init__(
        self,
        sampled: SampledProblem,
        generator: torch.Generator | None,
        *,
        surrogate: Surrogate,
        parts: Collection[str],
        corrected: bool,
    ) -> None:
        self._sampled, self._generator = sampled, generator
        self._surrogate, self._parts, self._corrected = surrogate, parts, corrected
        self._episodes: list[Episodes] = []

    def problem(self, params: Params) -> MapProblem:
        """Return the inner loop as a map.

        Args:
            params: theta.
        """
        like = next(iter(params.values()))
        return MapProblem(
            self._sampled.inner_loss,
            self._outer_loss,
            steps=self._sampled.steps,
            inner_map=self._step,
            auxiliary={_SCORE: like.new_zeros(())} if self._corrected else {},
        )

    def _step(self, params: Params, step: int) -> Params:
        policy = _policy(params)
        if step == len(self._episodes) and {"inner", "hessian"} & {*self._parts}:
            drawn = self._sampled.inner.draw(detached(policy), self._generator)
            self._episodes.append(drawn)
        slopes = gradient_at(self._inner_loss("hessian", step), policy, create_graph=True)
        if ("inner" in self._parts) != ("hessian" in self._parts):
            followed = gradient_at(self._inner_loss("inner", step), policy)
            slopes = {n: slope + (followed[n] - slope).detach() for n, slope in slopes.items()}
        moved = axpy(-self._sampled.alpha, slopes, policy)
        if self._corrected:
            taken = self._sampled.inner.log_probabilities(policy, self._episodes[step])
            moved[_SCORE] = params[_SCORE] + taken.sum()
        return moved

    def _inner_loss(self, part: str, step: int) -> Loss:
        """Return what a step lowers: minus a surrogate where the part is drawn."""
        if part not in self._parts:
            return self._sampled.inner_loss
        environment, episodes = self._sampled.inner, self._episodes[step]
        return partial(self._drawn_loss, self._surrogate, environment, episodes)

    def _outer_loss(self, params: Params) -> Tensor:
        policy = _policy(params)
        if "outer" in self._parts:
            environment = self._sampled.outer
            episodes = environment.draw(detached(policy), self._generator)
            loss = self._drawn_loss(dice, environment, episodes, policy)
        else:
            loss = evaluate(self._sampled.outer_loss, policy)
        if self._corrected:
            loss = loss + loss.detach() * params[_SCORE]
        return loss

    def _drawn_loss(
        self, surrogate: Surrogate, environment: Environment, episodes: Episodes, policy: Params
    ) -> Tensor:
        taken = environment.log_probabilities(policy, episodes)
        return -surrogate(taken, episodes.rewards.to(taken), self._sampled.discount)


def _policy(params: Params) -> Params:
    return {name: value for name, value in params.items() if name != _SCORE}
