"""Ways to compute Hessian-vector products, by name."""

from contextlib import AbstractContextManager, nullcontext

from estimators.base.attention import plain_attention
from estimators.base.differentiation import Loss
from estimators.base.tree import Params
from estimators.hvp.finite_difference import FiniteDifference
from estimators.hvp.forward import Forward
from estimators.hvp.hessian import Hessian
from estimators.hvp.reverse import Func, Reverse

ENGINES: dict[str, type[Hessian]] = {
    "reverse": Reverse,
    "forward": Forward,
    "func": Func,
    "finite-difference": FiniteDifference,
}


def hessian_at(loss: Loss, params: Params, *, engine: str, points: int = 1) -> Hessian:
    """Return the Hessian of a loss at a point, as an operator.

    Args:
        loss: maps parameters to a scalar tensor.
        params: the point; left as it is.
        engine: one of `ENGINES`; what is being compiled always takes "func".
        points: how many points are stacked in `params`; each counts as a product.
    """
    return ENGINES[engine](loss, params, points)


def kernels_for(engine: str) -> AbstractContextManager[None]:
    """Choose the kernels that each product of a block would choose by itself, once for all."""
    return nullcontext() if engine == "finite-difference" else plain_attention()


def hvp(loss: Loss, params: Params, vector: Params, *, engine: str) -> Params:
    """Return one Hessian-vector product; nothing is kept.

    Args:
        loss: maps parameters to a scalar tensor.
        params: the point.
        vector: keyed and shaped as `params`.
        engine: one of `ENGINES`.

    Returns:
        The product, detached, keyed and shaped as `params`.
    """
    return hessian_at(loss, params, engine=engine).product(vector, last=True)
