"""All estimates that a random estimator can make, with their probabilities."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from estimators import (
    BilevelProblem,
    Environment,
    Episodes,
    Estimator,
    MetaGradient,
    Params,
    SampledProblem,
)
from estimators.base.errors import OptionError

MOST = 1_000
"""Estimates that are enumerated at most."""


def all_estimates(
    estimator: Estimator, problem: BilevelProblem, params: Params
) -> list[tuple[float, MetaGradient]]:
    """Return each estimate that is possible, with its probability.

    None where they are too many, or where the estimator draws other things than episodes.
    """
    if not (estimator.is_random and isinstance(problem, SampledProblem) and count(problem) <= MOST):
        return []
    if not problem.outer.outcomes():
        return []
    generator = torch.Generator("cpu").manual_seed(0)
    untouched = generator.get_state()
    every = []
    for each in islice(estimates(estimator, problem, params, generator), MOST + 1):
        if not torch.equal(generator.get_state(), untouched):
            return []
        every.append(each)
    return every if len(every) <= MOST else []


def estimates(
    estimator: Estimator,
    problem: SampledProblem,
    params: Params,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[float, MetaGradient]]:
    """Yield each estimate that is possible, with its probability; these sum to 1.

    Args:
        estimator: draws nothing but episodes.
        problem: whose environments have few outcomes.
        params: theta.
        generator: is passed on; whatever else is drawn comes from it.

    Raises:
        OptionError: an environment has too many outcomes to be enumerated.
    """
    path = _Path()
    inner, outer = (
        _Scripted(real, real.outcomes(), path) for real in (problem.inner, problem.outer)
    )
    scripted = replace(problem, inner=inner, outer=outer)
    while True:
        path.begin()
        estimate = estimator(scripted, params, generator=generator)
        yield path.probability, estimate
        if not path.advance():
            return


def count(problem: SampledProblem) -> float:
    """Return how many ways there are through a problem's drawn inner steps; inf if unknown."""
    return (len(problem.inner.outcomes()) or math.inf) ** problem.steps


@dataclass
class _Path:
    """The choices of one estimate, and how many there were each time."""

    choices: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    place: int = 0
    probability: float = 1.0

    def begin(self) -> None:
        self.place, self.probability = 0, 1.0

    def choose(self, count: int) -> int:
        if self.place == len(self.choices):
            self.choices.append(0)
            self.counts.append(count)
        self.place += 1
        return self.choices[self.place - 1]

    def advance(self) -> bool:
        """Go to the next path; return whether there is one."""
        while self.choices:
            self.choices[-1] += 1
            if self.choices[-1] < self.counts[-1]:
                return True
            self.choices.pop()
            self.counts.pop()
        return False


@dataclass(frozen=True, eq=False)
class _Scripted(Environment):
    """An environment whose next outcome is that of a path, of all that there are."""

    real: Environment
    every: Sequence[Episodes]
    path: _Path

    def draw(self, params: Params, generator: torch.Generator | None) -> Episodes:
        del generator
        if not self.every:
            raise OptionError("the environment has too many outcomes to enumerate them")
        episodes = self.every[self.path.choose(len(self.every))]
        with torch.no_grad():
            taken = self.real.log_probabilities(params, episodes)
        self.path.probability *= float(taken.double().sum().exp())
        return episodes

    def log_probabilities(self, params: Params, episodes: Episodes) -> Tensor:
        return self.real.log_probabilities(params, episodes)
