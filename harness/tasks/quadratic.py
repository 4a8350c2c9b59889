"""A problem whose exact meta-gradient is known in closed form."""

from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimators.base.errors import OptionError
from harness.tasks.task import TASKS, Task, TaskFamily, split_number, uniform


@TASKS.register("quadratic")
@dataclass(frozen=True)
class Quadratic(TaskFamily):
    r"""Minimise sum_i [lambda_i/2 (z_i - c_i)^2 + drift/4 (z_i - c_i)^4], z = Q^T w.

    Q is orthogonal, the rows of the inputs are its columns, and the model is `linear`: w is its
    weight. The Hessian Q diag(lambda_i + 3 drift (z_i - c_i)^2) Q^T is constant for drift 0 and
    moves along the inner loop otherwise. All coordinates z_i are independent, so that trajectory
    and meta-gradient have a closed form. Support and query differ in their centre c.

    Attributes:
        dimension: number of parameters.
        smallest: least eigenvalue lambda_1 at the centre, > 0.
        largest: greatest eigenvalue, >= smallest; the others lie between, geometrically spaced.
        drift: strength of the quartic term, >= 0.

    Example:
        >>> Quadratic(dimension=4).sample(seed=0).support[0].shape
        torch.Size([4, 4])
    """

    dimension: int = 20
    smallest: float = 0.1
    largest: float = 10.0
    drift: float = 0.0

    step_size = 0.02

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise OptionError(f"quadratic: dimension={self.dimension} must be 1 or more")
        if not 0 < self.smallest <= self.largest < inf:
            raise OptionError(
                f"quadratic: smallest={self.smallest} and largest={self.largest} "
                "must be positive, finite and in this order"
            )
        if not 0 <= self.drift < inf:
            raise OptionError(f"quadratic: drift={self.drift} must be 0 or more, and finite")

    @cached_property
    def eigenvalues(self) -> NDArray[np.float64]:
        """lambda, float64 [dimension], rising."""
        return np.geomspace(self.smallest, self.largest, self.dimension)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One column of Q."""
        return (self.dimension,)

    @property
    def outputs(self) -> int:
        """One coordinate z_i."""
        return 1

    def sample(self, seed: int, split: str = "train") -> Task:
        """See `TaskFamily.sample`; targets are the centres c, float64 [dimension, 1]."""
        n = self.dimension
        draws = uniform((seed, split_number(split)), n * n + 2 * n)
        q, _ = np.linalg.qr(draws[: n * n].reshape(n, n) - 0.5)
        rows = torch.from_numpy(np.ascontiguousarray(q.T))
        centres = torch.from_numpy(2 * draws[n * n :].reshape(2, n, 1) - 1)
        return Task((rows, centres[0]), (rows, centres[1]))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum above; outputs and targets are [dimension, 1]."""
        apart = outputs - targets
        curvature = torch.from_numpy(self.eigenvalues).to(apart).unsqueeze(1)
        return (0.5 * curvature * apart**2 + 0.25 * self.drift * apart**4).sum()
