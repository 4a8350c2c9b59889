"""Draws that random estimators are measured by: always the same, so that results repeat."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from estimators import BilevelProblem, Estimator, MetaGradient, Params

REPEATS = 32
"""Independent estimates of a task, of which bias and spread are measured."""

FEW = 8
"""Estimates of which time, products and FLOPs are means."""


def generator_of(*key: int) -> torch.Generator:
    """Return a generator on the CPU whose state follows from whole numbers, 0 or more."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(seed))


def repeated(
    estimator: Estimator, problem: BilevelProblem, params: Params, *key: int
) -> Iterator[MetaGradient]:
    """Yield an estimate; of a random estimator `REPEATS`, by draws that follow from a key."""
    for repeat in range(REPEATS if estimator.is_random else 1):
        yield estimator(problem, params, generator=generator_of(*key, repeat))


@dataclass(frozen=True)
class Estimates:
    """An estimate as a piece of work; of a random estimator, those by a few draws.

    The first number of each draw comes from another `FEW`th part of 0 to 1, so that where it
    decides how much is done, as most often, the mean is near the expectation.
    """

    estimator: Estimator
    problem: BilevelProblem
    params: Params

    def __len__(self) -> int:
        """Return how many estimates there are."""
        return draws(self.estimator)

    def __iter__(self) -> Iterator[MetaGradient]:
        """Yield one after another, and keep none."""
        if not self.estimator.is_random:
            yield self.estimator(self.problem, self.params)
            return
        for seed in _seeds():
            generator = torch.Generator("cpu").manual_seed(seed)
            yield self.estimator(self.problem, self.params, generator=generator)

    def __call__(self) -> None:
        """Run all of them."""
        for _ in map(_forgotten, self):
            pass

    def first(self) -> MetaGradient:
        """Return the first one."""
        return next(iter(self))

    def mean(self, count: Callable[[Callable[[], object]], int]) -> float:
        """Return the mean of what a function counts of a piece of work."""
        return count(self) / len(self) if len(self) > 1 else count(self)


def draws(estimator: Estimator) -> int:
    """Return how many estimates a measurement of time or memory makes."""
    return FEW if estimator.is_random else 1


def _forgotten(_: MetaGradient) -> None:
    """Keep no result while the next one is computed."""


@cache
def _seeds() -> list[int]:
    found: list[int] = []
    seed = 0
    while len(found) < FEW:
        generator = torch.Generator("cpu").manual_seed(seed)
        number = float(torch.rand((), dtype=torch.float64, device="cpu", generator=generator))
        if int(number * FEW) == len(found):
            found.append(seed)
        seed += 1
    return found
