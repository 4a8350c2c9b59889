"""Implicit meta-gradient from two inner loops that are nudged apart by the outer loss."""

from dataclasses import dataclass, replace
from math import inf, nan, sqrt

import torch
from torch import Tensor

from estimators.base.differentiation import evaluate
from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.phases import Phase, phase
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached, leaves, norm, scaled
from estimators.methods.proximal import Proximal

_TOO_FAR = 4.0  # moves longer than wanted: the outer loss is steeper at phi_0 than at theta


@register("contrastive")
@dataclass(frozen=True)
class Contrastive(Proximal):
    """lambda (phi_{-d} - phi_{+d}) / 2d, by two inner loops nudged by -d and +d outer losses.

    phi_d comes from K gradient steps on inner_loss(phi) + lambda/2 ||phi - theta||^2 + d
    outer_loss(phi). At the minimiser phi_0 this is (I + H/lambda)^{-1} grad outer_loss(phi_0), the
    gradient that `imaml` solves for, with no second derivative. It is inexact in two ways. The
    difference is off by O(d^2), by O(d) with one side, and by kinks and rounding. And K steps that
    have not converged give lambda alpha sum_j A_{K-1} ... A_{j+1} grad outer_loss(phi_j), A_k = I -
    alpha (H_k + lambda), which lacks A_0 ... A_{K-1} grad outer_loss(phi_K) of its own objective:
    (1 - alpha lambda)^K should be near 0. See `Proximal` for that objective; the adapted parameters
    are phi_0, with two sides the mean of both ends.
    Cost: K gradients of the inner and of the outer loss a side, K inner ones more with one side,
    and one outer gradient for the default of delta; no HVP. Where the outer loss is much steeper at
    phi_0 than at theta, that default is found at phi_0, and both loops are run again.

    Attributes:
        delta: d > 0; None is the one that moves phi by about 2 sqrt(eps) r / n^(1/4) or
            8 eps ||theta||, whichever is more, r being the root mean square of the n entries of
            theta, and eps their precision. Longer ways cross kinks, shorter ones drown in rounding.
        sides: 2, or 1 for lambda (phi_0 - phi_{+d}) / d.

    Source: Zucchet, Schug, von Oswald, Zhao, Sacramento, "A Contrastive Rule for Meta-Learning",
    NeurIPS 2022.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=50)
        >>> contrastive = create("contrastive(lam=1.0, delta=0.01)")
        >>> contrastive(problem, {"w": torch.ones(1)}).gradient["w"]  # .5 / (1+1)
        tensor([0.2500])
    """

    delta: float | None = None
    sides: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delta is not None and not 0 < self.delta < inf:
            raise OptionError(f"contrastive: delta={self.delta} must be positive and finite")
        if self.sides not in (1, 2):
            raise OptionError(f"contrastive: sides={self.sides} is neither 1 nor 2")

    @property
    def batchable(self) -> bool:
        """Whether delta is given; else it depends on all problems of a stack."""
        return self.delta is not None

    def unsupported_reason(self, steps: int) -> str | None:
        """See `Estimator.unsupported_reason`."""
        return None if steps else "contrastive: no step takes the two loops apart at depth 0"

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost((2 + self.sides) * steps + (self.delta is None), 0, 0)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        self.refuse_divergence(problem)
        device = next(iter(params.values())).device.type
        with torch.autocast(device, enabled=False):  # its rounding would drown the difference
            if self.delta is None:
                delta, plus, minus = self._by_default(problem, params)
            else:
                delta, (plus, minus) = self.delta, self._ways(problem, params, self.delta)
        gradient = scaled(self.lam / (self.sides * delta), axpy(-1.0, plus, minus))
        if self.sides == 2:
            minus = scaled(0.5, axpy(1.0, plus, minus))
        adapted = axpy(1.0, minus, params)
        with phase(Phase.OUTER_GRADIENT), torch.no_grad():
            outer_loss = evaluate(problem.outer_loss, adapted)
        return MetaGradient(gradient, outer_loss, adapted, hvps=0, serial_depth=0)

    def _way(self, problem: BilevelProblem, theta: Params, nudge: float) -> Params:
        """Return phi_K - theta, which is descended itself: it rounds finer than phi does."""

        def loss(way: Params) -> Tensor:
            phi = axpy(1.0, way, theta)
            square = sum(value.square().sum() for value in way.values())
            proximal = evaluate(problem.inner_loss, phi) + 0.5 * self.lam * square
            return proximal + nudge * evaluate(problem.outer_loss, phi) if nudge else proximal

        start = {name: torch.zeros_like(value) for name, value in theta.items()}
        return detached(replace(problem, inner_loss=loss).adapt(start))

    def _ways(self, problem: BilevelProblem, theta: Params, delta: float) -> tuple[Params, Params]:
        plus = self._way(problem, theta, delta)
        return plus, self._way(problem, theta, -delta if self.sides == 2 else 0.0)

    def _by_default(self, problem: BilevelProblem, theta: Params) -> tuple[float, Params, Params]:
        """Return the delta that is one with a move of some length, and the ways it makes."""
        precision = max(torch.finfo(value.dtype).eps for value in theta.values())
        entries = sum(value.numel() for value in theta.values())
        length = norm(theta) or sqrt(entries)  # at zero, as if all entries were one
        reach: float = length * max(2 * sqrt(precision) / entries**0.75, 8 * precision)
        delta = self._delta_for(reach, problem, theta)
        plus, minus = self._ways(problem, theta, delta)
        if not norm(axpy(-1.0, plus, minus)) <= _TOO_FAR * self.sides * reach:
            end = axpy(1.0, self._way(problem, theta, 0.0), theta)
            delta = self._delta_for(reach, problem, end)
            plus, minus = self._ways(problem, theta, delta)
        return delta, plus, minus

    def _delta_for(self, reach: float, problem: BilevelProblem, point: Params) -> float:
        """Return the delta that moves phi so far, where H is small to lambda."""
        _, g = problem.outer_gradient(leaves(point))
        return self.lam * reach / (norm(g) or 1.0) or nan  # of no use where the slope is infinite
