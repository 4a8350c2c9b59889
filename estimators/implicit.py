"""Implicit differentiation of an inner loop, as if it had ended in a minimum."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, Estimator, MetaGradient
from estimators.base.map_problem import MapProblem
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, detached, dot, leaves, scaled
from estimators.hvp import Hessian, hessian_at


@register("implicit")
@dataclass(frozen=True)
class Implicit(Estimator):
    r"""d outer_loss / dh - (d^2 inner_loss / dh dphi) H^{-1} g for frozen parameters h.

    For others it is 0: a minimum does not depend on where the inner loop began. H is the Hessian of
    the inner loss in the adapted entries at phi_K, g the outer gradient there. Right where phi_K is
    a minimum; wrong where the loop stops early, whatever its steps are. Conjugate gradients solve
    H w = g.
    Cost: (K+2) gradients and up to `cg_steps` + 1 HVPs, all serial; no derivative of a step.

    Attributes:
        hessian: "full"; or "gauss-newton", which leaves out the curvature of the dynamics, for
            problems that say how (`MapProblem.linearised`).
        cg_steps: most steps of conjugate gradients, 1 or more; they end where the curvature met is
            not positive.
        tolerance: they end at that residual too, relative to ||g||, 0 or more and below 1.

    Source: the implicit function theorem; applied to trajectory optimisation that ends early, with
    Gauss-Newton Hessians, in "Learning to Coordinate", arXiv 2509.01630.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create, frozen
        >>> inner = lambda p: 0.5 * ((p["w"] - p["goal"]) ** 2).sum()
        >>> outer = lambda p: 0.5 * (p["w"] ** 2).sum()
        >>> problem = frozen(BilevelProblem(inner, outer, step_size=1.0, steps=1), ["goal"])
        >>> theta = {"w": torch.zeros(1), "goal": torch.ones(1)}
        >>> create("implicit")(problem, theta).gradient["goal"]
        tensor([1.])
    """

    supports_maps: ClassVar[bool] = True

    hessian: str = "full"
    cg_steps: int = 20
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hessian not in ("full", "gauss-newton"):
            raise OptionError(
                f'implicit: hessian={self.hessian!r} is neither "full" nor "gauss-newton"'
            )
        if self.cg_steps < 1:
            raise OptionError(f"implicit: cg_steps={self.cg_steps} must be 1 or more")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"implicit: tolerance={self.tolerance} must be in 0..1")

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        return Cost(steps + 2, self.cg_steps + 1, self.cg_steps + 1)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`.

        Raises:
            OptionError: no parameters are frozen, the outer loss depends on auxiliary entries, or
                the problem does not say how to linearise.
        """
        if not isinstance(problem, MapProblem) or not problem.frozen:
            raise OptionError(
                "implicit gives the gradient of hyperparameters, and there are none: name them by "
                "frozen(problem, names)"
            )
        end = detached(problem.end(params))
        outer_loss, g = problem.outer_gradient(leaves(end))
        if any(g[name].any() for name in problem.auxiliary):
            raise OptionError(
                "implicit takes outer losses of adapted and frozen parameters alone, not of "
                "auxiliary entries; use maml"
            )
        adapted, g = map(problem.without_auxiliary, (end, g))
        operator = self._operator(problem, adapted)
        fixed = [name for name in g if name in problem.frozen]
        w, products = self._solve(operator, g | _zeros(g, fixed), fixed)
        pulled = operator.product(w, last=True)
        gradient = _zeros(g, g) | {name: g[name] - pulled[name] for name in fixed}
        return MetaGradient(gradient, outer_loss, adapted, products + 1, products + 1)

    def _operator(self, problem: MapProblem, phi: Params) -> Hessian:
        """Return the Hessian in all entries, frozen ones too."""
        if self.hessian == "full":
            return hessian_at(problem.inner_loss, phi, engine="reverse")
        if problem.linearised is None:
            raise OptionError(
                'implicit: hessian="gauss-newton" needs a problem that says how to linearise its '
                "dynamics, MapProblem.linearised; the tasks trajectory and unicycle do"
            )
        return hessian_at(problem.linearised(phi), phi, engine="reverse")

    def _solve(self, operator: Hessian, g: Params, fixed: list[str]) -> tuple[Params, int]:
        """Return w with H w = g in the adapted entries and 0 in the others; count the products."""
        none = _zeros(g, fixed)
        w, residual, direction = scaled(0.0, g), g, g
        square = dot(g, g)
        goal = self.tolerance**2 * square
        products = 0
        while products < self.cg_steps and square > goal:
            image = operator.product(direction, last=False) | none
            products += 1
            curvature = dot(direction, image)
            if not curvature > 0:
                break
            length = square / curvature
            w, residual = axpy(length, direction, w), axpy(-length, image, residual)
            previous, square = square, dot(residual, residual)
            direction = axpy(square / previous, direction, residual)
        return w, products


def _zeros(like: Params, names: Iterable[str]) -> Params:
    return {name: torch.zeros_like(like[name]) for name in names}
