"""Products with B_k, where an inner step's Jacobian is I - alpha B_k: Hessians, and other maps'."""

from estimators.base.differentiation import Loss, differentiated
from estimators.base.map_problem import MapProblem
from estimators.base.problem import BilevelProblem, State
from estimators.base.tree import Params, axpy, leaves
from estimators.hvp.engines import hessian_at
from estimators.hvp.hessian import Hessian


class OneMinusJacobian(Hessian):
    """B_k' v = v - dF_k' v for an inner map F_k, by back-propagation; no Hessian in general.

    The step's graph is built once and shared by all products at the point.

    Args:
        problem: has the map.
        step: k.
        params: phi_k; left as it is.
    """

    def __init__(self, problem: MapProblem, step: int, params: Params) -> None:
        self._problem, self._step = problem, step
        super().__init__(problem.inner_loss, params)

    def _prepare(self, loss: Loss, params: Params) -> None:
        del loss
        self._point = leaves(params)
        self._moved = self._problem.unroll(State(self._point, {}, self._step), 1).params

    def _product(self, vector: Params, *, last: bool) -> Params:
        moving = [name for name, value in self._moved.items() if value.requires_grad]
        pulled = differentiated(
            [self._moved[name] for name in moving],
            [*self._point.values()],
            grad_outputs=[vector[name] for name in moving],
            retain_graph=not last,
        )
        if last:
            self._moved = {}
        return axpy(-1.0, dict(zip(self._point, pulled, strict=True)), vector)


def curvature_at(problem: BilevelProblem, step: int, params: Params, *, engine: str) -> Hessian:
    """Return B_k of an inner step, whose transposed Jacobian is I - alpha B_k'.

    Args:
        problem: the bilevel problem.
        step: k.
        params: phi_k; left as it is.
        engine: for the Hessian of gradient descent; see `hessian_at`.
    """
    if isinstance(problem, MapProblem):
        return OneMinusJacobian(problem, step, params)
    return hessian_at(problem.inner_loss, params, engine=engine)
