"""Small bilevel problems on which estimators are checked; smooth, and deliberately awkward."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from estimators import BilevelProblem, MetaGradient, create
from tests.oracle import Loss, Oracle


@dataclass(frozen=True)
class Case:
    """Losses, a step size and the point theta.

    Attributes:
        inner_loss: the loss that is descended.
        outer_loss: the loss at the end of the descent.
        step_size: alpha, large enough for the curvature to matter.
        params: theta.
        lam: a proximal strength at which the proximal inner loss is convex around theta.
        curved: whether the inner Hessian varies along the descent.
    """

    inner_loss: Loss
    outer_loss: Loss
    step_size: float
    params: dict[str, Tensor]
    lam: float = 1.0
    curved: bool = True

    def problem(self, steps: int) -> BilevelProblem:
        """Returns the problem at depth `steps`."""
        return BilevelProblem(self.inner_loss, self.outer_loss, self.step_size, steps)


class _Source:
    """Repeatable normal draws: the same numbers in any precision."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def normal(self, *shape: int) -> Tensor:
        draw = torch.randn(*shape, generator=self._generator, dtype=torch.float64)
        return draw.to(self._dtype)


def quartic(dtype: torch.dtype) -> Case:
    """A polynomial in five variables with third and fourth derivatives."""
    source = _Source(0, dtype)

    def polynomial() -> Loss:
        slope, square = source.normal(5), source.normal(5, 5)
        cube, fourth = source.normal(5, 5, 5), source.normal(5, 5)

        def loss(params: dict[str, Tensor]) -> Tensor:
            w = params["w"]
            quadratic = slope @ w + 0.5 * (square @ w).square().sum()
            cubic = torch.einsum("ijk,i,j,k->", cube, w, w, w) / 6
            return quadratic + cubic + (fourth @ w).pow(4).sum() / 24

        return loss

    return Case(polynomial(), polynomial(), 0.05, {"w": 0.7 * source.normal(5)}, lam=4.0)


def mlp(dtype: torch.dtype) -> Case:
    """Regression by a tanh network of two weight matrices."""
    source = _Source(1, dtype)

    def regression() -> Loss:
        inputs, targets = source.normal(2, 8), source.normal(1, 8)

        def loss(params: dict[str, Tensor]) -> Tensor:
            hidden = torch.tanh(params["first"] @ inputs)
            return functional.mse_loss(params["second"] @ hidden, targets)

        return loss

    params = {"first": source.normal(4, 2), "second": source.normal(1, 4)}
    return Case(regression(), regression(), 0.2, params)


def convolution(dtype: torch.dtype) -> Case:
    """Two classes told apart by a convolution with transductive batch normalisation."""
    source = _Source(2, dtype)

    def classification() -> Loss:
        images, labels = source.normal(6, 1, 5, 5), torch.arange(6) % 2

        def loss(params: dict[str, Tensor]) -> Tensor:
            x = functional.conv2d(images, params["weight"])
            scale, shift = params["scale"], params["shift"]
            x = functional.batch_norm(x, None, None, scale, shift, training=True)
            features = functional.softplus(x).square().mean((2, 3))
            return functional.cross_entropy(features @ params["head"], labels)

        return loss

    params = {
        "weight": source.normal(2, 1, 3, 3),
        "scale": 1 + 0.1 * source.normal(2),
        "shift": 0.1 * source.normal(2),
        "head": source.normal(2, 2),
    }
    return Case(classification(), classification(), 0.3, params, lam=2.0)


def linear(dtype: torch.dtype) -> Case:
    """An inner loss without curvature, so that every A_k is the identity."""
    source = _Source(3, dtype)
    slope = source.normal(4)

    def inner_loss(params: dict[str, Tensor]) -> Tensor:
        return slope @ params["w"]

    def outer_loss(params: dict[str, Tensor]) -> Tensor:
        return params["w"].cos().sum()

    return Case(inner_loss, outer_loss, 0.1, {"w": source.normal(4)}, curved=False)


def uneven(dtype: torch.dtype) -> Case:
    """Parameters that only one loss uses, or neither; one without dimensions, one linear."""
    source = _Source(4, dtype)
    matrix = source.normal(3, 3)

    def inner_loss(params: dict[str, Tensor]) -> Tensor:
        x = torch.tanh(matrix @ params["both"]) * params["inner"]
        return (x - 1).square().sum() + params["flat"].sum()

    def outer_loss(params: dict[str, Tensor]) -> Tensor:
        return (params["both"].sin() * params["outer"] + params["flat"]).sum().exp()

    params = {
        "outer": source.normal(1).reshape(()),
        "both": source.normal(3),
        "idle": source.normal(2),
        "flat": 0.1 * source.normal(3),
        "inner": source.normal(3),
    }
    return Case(inner_loss, outer_loss, 0.1, params, lam=4.0)


_BUILDERS: dict[str, Callable[[torch.dtype], Case]] = {
    builder.__name__: builder for builder in (quartic, mlp, convolution, linear, uneven)
}
NAMES = list(_BUILDERS)


def case(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """Returns a fresh case by its name."""
    return _BUILDERS[name](dtype)


CURVED = [name for name in NAMES if case(name).curved]


def estimate(spec: str, name: str, steps: int) -> MetaGradient:
    """Returns what an estimator makes of a case at a depth."""
    found = case(name)
    return create(spec)(found.problem(steps), found.params)


@cache
def oracle(name: str, steps: int) -> Oracle:
    """Returns the reference for a case at a depth."""
    found = case(name)
    return Oracle(found.inner_loss, found.outer_loss, found.step_size, steps, found.params)
