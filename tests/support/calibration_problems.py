"""Problems to calibrate on, whose meta-gradients are known, and the fit in dense vectors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators import BilevelProblem, Params, create
from estimators.binom_calibrated import BinomCalibrated
from estimators.methods.calibration import Calibration
from tests.support.oracle import Oracle


def calibrated(order: int, **options: Any) -> BinomCalibrated:
    estimator = create("binom-calibrated", order=order, **options)
    assert isinstance(estimator, BinomCalibrated)
    return estimator


def fitted(order: int, problems: Sequence[BilevelProblem], theta: Params) -> Calibration:
    """Return the calibration of a new estimator."""
    estimator = calibrated(order)
    estimator.calibrate(problems, theta)
    assert estimator.calibration
    return estimator.calibration


SIZE = 6
THETA = {"w": torch.randn(SIZE, generator=torch.Generator().manual_seed(9)).double()}


def problem(seed: int, alpha: float, steps: int) -> BilevelProblem:
    """Return a problem whose inner Hessians vary, with eigenvalues up to about 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    basis: Tensor = torch.linalg.qr(normal(SIZE, SIZE)).Q
    curvature = torch.rand(SIZE, generator=generator).double()
    slope, waves, goal = normal(SIZE), normal(SIZE, SIZE), normal(SIZE)

    def inner_loss(params: Params) -> Tensor:
        w = params["w"]
        bowl = 0.5 * (curvature * (basis.T @ w).square()).sum() - slope @ w
        return bowl + 0.1 * (waves @ w).cos().sum()

    def outer_loss(params: Params) -> Tensor:
        return 0.5 * (params["w"] - goal).square().sum() + params["w"].cos().sum()

    return BilevelProblem(inner_loss, outer_loss, alpha, steps)


def problems(count: int, alpha: float, steps: int) -> list[BilevelProblem]:
    return [problem(seed, alpha, steps) for seed in range(count)]


def bowl(curvature: float, alpha: float, steps: int, size: int = SIZE) -> BilevelProblem:
    """Return a problem whose inner Hessian is a multiple of the identity."""

    def inner_loss(params: Params) -> Tensor:
        return 0.5 * curvature * (params["w"] - 1).square().sum()

    def outer_loss(params: Params) -> Tensor:
        return 0.5 * (params["w"] - torch.arange(2.0, 2.0 + size).double()).square().sum()

    return BilevelProblem(inner_loss, outer_loss, alpha, steps)


def slide(steps: int) -> BilevelProblem:
    """Return a problem whose inner loss has no curvature."""
    return BilevelProblem(
        lambda params: params["w"].sum(), lambda params: params["w"].cos().sum(), 0.1, steps
    )


class Dense:
    """The quantities of a fit in dense vectors: g, e_1, ..., e_L and the exact meta-gradient."""

    def __init__(self, which: BilevelProblem, theta: Params, order: int) -> None:
        assert isinstance(which.step_size, float)
        reference = Oracle(which.inner_loss, which.outer_loss, which.step_size, which.steps, theta)
        self.g, self.exact = reference.outer_gradient, reference.exact()
        sums = [
            (-which.step_size) ** size * reference.subset_sum(size) for size in range(1, order + 1)
        ]
        self.levels = torch.stack(sums, dim=1)

    @property
    def equations(self) -> tuple[Tensor, Tensor]:
        """Matrix and right side, in units of the exact meta-gradient."""
        return self.levels / self.exact.norm(), (self.exact - self.g) / self.exact.norm()

    def error(self, coefficients: Tensor) -> float:
        estimate = self.g + self.levels @ coefficients
        return float((estimate - self.exact).norm() / self.exact.norm())


def least_squares(tasks: Sequence[Dense]) -> Tensor:
    """Return the coefficients that numpy finds for all equations below each other."""
    pairs = [task.equations for task in tasks]
    matrix, right = (torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
    return torch.tensor(np.linalg.lstsq(matrix, right)[0])


def root_mean_square(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def total_error(tasks: Sequence[Dense], coefficients: Sequence[float]) -> float:
    weights = torch.tensor(list(coefficients), dtype=torch.float64)
    return root_mean_square([task.error(weights) for task in tasks])


def errors_of_all(tasks: Sequence[Dense], coefficients: Sequence[float]) -> tuple[float, float]:
    """Return the error with some coefficients, and the lower of those of Eq. 8 and fomaml."""
    order = len(coefficients)
    rivals = min(total_error(tasks, [value] * order) for value in (0.0, 1.0))
    return total_error(tasks, coefficients), rivals


WELL_POSED = [
    (alpha, steps, order)
    for alpha in (0.1, 0.3, 0.6)
    for steps, order in ((3, 1), (4, 2), (5, 3), (5, 4))
]
