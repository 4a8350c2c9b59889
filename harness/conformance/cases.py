"""The bilevel problems on which estimators are checked.

Those of `SYNTHETIC` are small, smooth and deliberately awkward: third derivatives, batch
normalisation, no curvature at all, parameters without dimensions or without use. Those of `TASKS`
are tasks and models of the harness.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from estimators import BilevelProblem, Params, create
from estimators.base.differentiation import Loss
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem


@dataclass(frozen=True)
class Case:
    """Losses, a step size and the point theta.

    Attributes:
        step_size: alpha, large enough for the curvature to matter.
        lam: a proximal strength at which the proximal inner loss is convex around theta.
        curved: whether the inner Hessian varies along the descent.
        like: a problem at any depth, where it is more than gradient descent on all parameters.
    """

    name: str
    inner_loss: Loss
    outer_loss: Loss
    step_size: float
    params: Params
    lam: float = 1.0
    curved: bool = True
    like: BilevelProblem | None = None

    def problem(
        self, steps: int, *, step_size: Params | None = None, momentum: float = 0.0
    ) -> BilevelProblem:
        """Return the problem at a depth."""
        alpha = self.step_size if step_size is None else step_size
        if self.like:
            return replace(self.like, step_size=alpha, steps=steps, momentum=momentum)
        return BilevelProblem(self.inner_loss, self.outer_loss, alpha, steps, momentum)


def case(
    name: str, dtype: torch.dtype = torch.float64, draw: int = 0, *, check: bool = False
) -> Case:
    """Build a case afresh: nothing that is done to its parameters is seen by the next.

    Raises:
        OptionError: it is one of `TASKS`, a check of that was asked for, and has found something.
    """
    if name in _BUILDERS:
        return _BUILDERS[name](dtype, draw)
    task, model = _PAIRS[name]
    cell = Cell.of(estimator="fomaml", task=task, model=model, depth=1)
    problem, params = bilevel_problem(cell, draw, dtype=dtype, device="cpu", check=check)
    like = None if type(problem) is BilevelProblem else problem
    losses = problem.inner_loss, problem.outer_loss
    return Case(name, *losses, problem.alpha, params, like=like)


@cache
def exact_gradient(name: str, depth: int) -> Params:
    """Return the exact meta-gradient of a case, in float64."""
    example = case(name)
    return create("adjoint")(example.problem(depth), example.params).gradient


class Source:
    """Repeatable normal draws: the same numbers in any precision."""

    def __init__(self, seed: int, dtype: torch.dtype, draw: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed + 1000 * draw)
        self._dtype = dtype

    def normal(self, *shape: int) -> Tensor:
        """Return the next numbers, of a shape."""
        draw = torch.randn(*shape, generator=self._generator, dtype=torch.float64, device="cpu")
        return draw.to(self._dtype)


def quartic(dtype: torch.dtype, draw: int) -> Case:
    """Return a polynomial in five variables with third and fourth derivatives."""
    source = Source(0, dtype, draw)

    def polynomial() -> Loss:
        slope, square = source.normal(5), source.normal(5, 5)
        cube, fourth = source.normal(5, 5, 5), source.normal(5, 5)

        def loss(params: Params) -> Tensor:
            w = params["w"]
            quadratic = slope @ w + 0.5 * (square @ w).square().sum()
            cubic = torch.einsum("ijk,i,j,k->", cube, w, w, w) / 6
            return quadratic + cubic + (fourth @ w).pow(4).sum() / 24

        return loss

    losses = polynomial(), polynomial()
    return Case("quartic", *losses, 0.05, {"w": 0.7 * source.normal(5)}, lam=4.0)


def mlp(dtype: torch.dtype, draw: int) -> Case:
    """Return a regression by a tanh network of two weight matrices."""
    source = Source(1, dtype, draw)

    def regression() -> Loss:
        inputs, targets = source.normal(2, 8), source.normal(1, 8)

        def loss(params: Params) -> Tensor:
            hidden = torch.tanh(params["first"] @ inputs)
            return functional.mse_loss(params["second"] @ hidden, targets)

        return loss

    params = {"first": source.normal(4, 2), "second": source.normal(1, 4)}
    return Case("mlp", regression(), regression(), 0.2, params)


def convolution(dtype: torch.dtype, draw: int) -> Case:
    """Return a problem of two classes and a convolution with transductive batch normalisation."""
    source = Source(2, dtype, draw)

    def classification() -> Loss:
        images, labels = source.normal(6, 1, 5, 5), torch.arange(6, device="cpu") % 2

        def loss(params: Params) -> Tensor:
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
    return Case("convolution", classification(), classification(), 0.3, params, lam=2.0)


def linear(dtype: torch.dtype, draw: int) -> Case:
    """Return an inner loss without curvature, so that every A_k is the identity."""
    source = Source(3, dtype, draw)
    slope = source.normal(4)

    def inner_loss(params: Params) -> Tensor:
        return slope @ params["w"]

    def outer_loss(params: Params) -> Tensor:
        return params["w"].cos().sum()

    return Case("linear", inner_loss, outer_loss, 0.1, {"w": source.normal(4)}, curved=False)


def uneven(dtype: torch.dtype, draw: int) -> Case:
    """Return a problem of parameters that only one loss uses, or neither; one has no dimension."""
    source = Source(4, dtype, draw)
    matrix = source.normal(3, 3)

    def inner_loss(params: Params) -> Tensor:
        x = torch.tanh(matrix @ params["both"]) * params["inner"]
        return (x - 1).square().sum() + params["flat"].sum()

    def outer_loss(params: Params) -> Tensor:
        return (params["both"].sin() * params["outer"] + params["flat"]).sum().exp()

    params = {
        "outer": source.normal(1).reshape(()),
        "both": source.normal(3),
        "idle": source.normal(2),
        "flat": 0.1 * source.normal(3),
        "inner": source.normal(3),
    }
    return Case("uneven", inner_loss, outer_loss, 0.1, params, lam=4.0)


_BUILDERS: dict[str, Callable[[torch.dtype, int], Case]] = {
    builder.__name__: builder for builder in (quartic, mlp, convolution, linear, uneven)
}
_PAIRS = {
    f"{task}/{model}": (task, model)
    for task, model in (
        ("quadratic", "linear"),
        ("bandit", "linear"),
        ("trajectory", "controls"),
        ("sinusoid", "mlp-40-40"),
        ("sinusoid", "mlp-40-40(init='torch')"),
        ("glyphs:5way-1shot", "conv4-16"),
    )
}

SYNTHETIC = tuple(_BUILDERS)
"""Names of the small cases."""

TASKS = tuple(_PAIRS)
"""Names of the cases that are a task and a model of the harness."""
