"""Implicit MAML: the meta-gradient of a proximally regularised inner problem."""

from dataclasses import dataclass
from math import nan

import torch

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, axpy, dot, flat, scaled, shaped, stack
from estimators.hvp import Hessian
from estimators.methods.proximal import Implicit

_LEAST_CURVATURE = 1e-3  # of the directions that "nystrom" keeps, to the largest


@register("imaml")
@dataclass(frozen=True)
class Imaml(Implicit):
    """(I + H(phi)/lambda)^{-1} grad outer_loss(phi), by conjugate gradients.

    See `Proximal` for phi, its own inner problem, and for the objective that it follows.
    The solver "nystrom" takes C M^+ C^T in place of H, C being some columns of H and M their rows
    of the same indices: g - C (lambda M + C^T C)^{-1} C^T g. Directions in which M has less than a
    thousandth of its largest curvature, or a negative one, are left out: they would give rounding,
    and outliers. The columns are evenly spaced over all entries, in the order of the parameters. On
    networks it came less near to the solution than "cg" with the same number of products.
    Cost: (K+2J+2) inner gradients at most; J HVPs at one point and one graph, J being the steps of
    conjugate gradients, all serial, or the rank, all independent.

    Attributes:
        solver: "cg" or "nystrom".
        cg_steps: J >= 1, conjugate-gradient steps from zero; fewer are taken once the residual
            is below `tolerance`, or where the curvature is not positive (the outer gradient is
            returned where the first one is not).
        tolerance: relative residual at which conjugate gradients stop.
        rank: columns of "nystrom", 1 or more; all where there are fewer entries.

    Source: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients",
    NeurIPS 2019, Eq. 6 and Algorithm 2. "nystrom": Hataya, Yamada, "Nyström Method for Accurate and
    Scalable Implicit Differentiation", AISTATS 2023; lambda is in the place of their rho.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=50)
        >>> create("imaml(lam=1.0)")(problem, {"w": torch.ones(1)}).gradient["w"]  # .5 / (1+1)
        tensor([0.2500])
    """

    solver: str = "cg"
    cg_steps: int = 5
    tolerance: float = 1e-10
    rank: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in ("cg", "nystrom"):
            raise OptionError(f'imaml: solver={self.solver!r} is neither "cg" nor "nystrom"')
        if self.rank < 1:
            raise OptionError(f"imaml: rank={self.rank} must be 1 or more")
        if self.cg_steps < 1:
            raise OptionError(f"imaml: cg_steps={self.cg_steps} must be 1 or more")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"imaml: tolerance={self.tolerance} must be in 0..1")

    @property
    def batchable(self) -> bool:
        """False: both solvers take all problems of a stack for one."""
        return False

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        gradients = steps + 1 + self.graphs(1)
        if self.solver == "nystrom":
            return Cost(gradients, self.rank, 1)
        return Cost(gradients, self.cg_steps, self.cg_steps)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        hessian, adapted, outer_loss, g = self.adapt(problem, params)
        if self.solver == "nystrom":
            gradient, products = self._solve_by_columns(hessian, g)
            return MetaGradient(gradient, outer_loss, adapted, products, serial_depth=1)
        gradient, products = self._solve_by_steps(hessian, g)
        return MetaGradient(gradient, outer_loss, adapted, products, products)

    def _solve_by_columns(self, hessian: Hessian, g: Params) -> tuple[Params, int]:
        """Solve (I + C M^+ C^T / lambda) x = g; also counts the products."""
        entries = sum(value.numel() for value in g.values())
        rank = min(self.rank, entries)
        indices = [(2 * i + 1) * entries // (2 * rank) for i in range(rank)]
        last = indices[-1]
        columns = stack([hessian.product(_unit(i, g), last=i == last) for i in indices])
        wide = torch.cat([value.reshape(rank, -1) for value in columns.values()], 1).double()  # C^T
        if not wide.isfinite().all():  # the inner loop has diverged
            return scaled(nan, g), rank
        rows = wide[:, indices]
        curvatures, directions = torch.linalg.eigh((rows + rows.T) / 2)
        kept = curvatures > _LEAST_CURVATURE * curvatures.abs().max()
        directions = directions[:, kept]
        wide = directions.T @ wide
        system = self.lam * curvatures[kept].diag() + wide @ wide.T
        correction = wide.T @ torch.linalg.solve(system, wide @ flat(g).double())
        return axpy(-1.0, shaped(correction, g), g), rank

    def _solve_by_steps(self, hessian: Hessian, g: Params) -> tuple[Params, int]:
        """Conjugate gradients for (I + H/lambda) x = g, from x = 0; also counts the products."""
        x, residual, direction = scaled(0.0, g), g, g
        goal = self.tolerance**2 * dot(g, g)
        square = dot(residual, residual)
        products = 0
        while products < self.cg_steps and square > goal:
            products += 1
            product = hessian.product(direction, last=products == self.cg_steps)
            image = axpy(1 / self.lam, product, direction)
            curvature = dot(direction, image)
            if not curvature > 0:
                x = x if products > 1 else g
                break
            length = square / curvature
            x = axpy(length, direction, x)
            residual = axpy(-length, image, residual)
            previous, square = square, dot(residual, residual)
            direction = axpy(square / previous, direction, residual)
        return x, products


def _unit(index: int, like: Params) -> Params:
    """Return the unit vector of one entry of all, in the order of the parameters."""
    unit = torch.zeros_like(flat(like))
    unit[index] = 1
    return shaped(unit, like)
