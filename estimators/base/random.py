"""Estimators that draw random numbers, and what they draw."""

from abc import abstractmethod
from typing import ClassVar

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Estimator, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params


class RandomEstimator(Estimator):
    """An estimator whose estimates are random draws; subclasses implement `draw`.

    All its randomness is that of the generator that a call is given: the same state gives the same
    bits. `cost` is the expectation over draws.

    Attributes:
        is_unbiased: whether the expectation of the estimate is MAML's exact meta-gradient, up to
            the precision of products.
    """

    is_random: ClassVar[bool] = True
    is_unbiased: ClassVar[bool] = False

    @property
    def batchable(self) -> bool:
        """False: each problem has draws of its own."""
        return False

    @abstractmethod
    def draw(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        """Draw an estimate; gradients are enabled, and `params` are detached.

        Args:
            problem: the bilevel problem.
            params: theta.
            generator: see `Estimator.__call__`; `uniform` and `signs` take it as it is.
        """

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """Draw an estimate from torch's default generator."""
        return self.draw(problem, params, None)

    def _run(
        self, problem: BilevelProblem, params: Params, generator: torch.Generator | None
    ) -> MetaGradient:
        if not isinstance(generator, torch.Generator | None):
            kind = type(generator).__name__
            raise OptionError(f"generator must be a torch.Generator, not {kind}")
        return self.draw(problem, params, generator)


def uniform(like: Params, generator: torch.Generator | None) -> float:
    """Draw a number, 0 <= u < 1.

    Args:
        like: parameters, whose device the default generator is of.
        generator: see `Estimator.__call__`.
    """
    device = _device(like, generator)
    return float(torch.rand((), dtype=torch.float64, device=device, generator=generator))


def signs(like: Params, generator: torch.Generator | None) -> Params:
    """Draw 1 or -1 for each entry, the same in any precision.

    Args:
        like: parameters, of the shapes, types and devices that are wanted.
        generator: see `Estimator.__call__`.
    """
    device = _device(like, generator)
    drawn = {}
    for name, value in like.items():
        bits = torch.randint(2, value.shape, device=device, generator=generator)
        drawn[name] = (2 * bits - 1).to(value)
    return drawn


def check_probability(name: str, value: float) -> None:
    """Check that an option is above 0 and below 1.

    Args:
        name: of estimator and option, as in messages.
        value: of the option.

    Raises:
        OptionError: it is not.
    """
    if not 0 < value < 1:
        raise OptionError(f"{name}={value} must be between 0 and 1")


def _device(like: Params, generator: torch.Generator | None) -> torch.device:
    return generator.device if generator else next(iter(like.values())).device
