"""The cascade behind the binomial estimators.

u_l(m) = u_l(m+1) - alpha H_m u_{l-1}(m+1), where u_l(m) is the order-l truncation of
A_m ... A_{n-1} g over n points; u_0 = g, u_l(n) = g, and the answer is u_L(0). u_l(m) is exact
from l = n-m on, so that level l needs the points m = L-l .. n-l alone: L(n-L+1) products. The
recursion over points was derived for this project from Eq. 8 of arXiv 2604.13263.
"""

from dataclasses import dataclass

from estimators.differentiation import Loss
from estimators.errors import OptionError
from estimators.hvp import hessian_at
from estimators.options import (
    AUTO,
    SHARDED,
    Compilable,
    TakesProducts,
    at_once,
    check_batching,
)
from estimators.problem import BilevelProblem
from estimators.sharding import gathered, ranks, share
from estimators.stack import stack, summed, unstack
from estimators.tree import Params, axpy


@dataclass(frozen=True, kw_only=True)
class Cascading(TakesProducts, Compilable):
    """An estimator that cascades over the inner steps.

    Attributes:
        batching: "loop" goes point by point, one product after another; "vmap" and "chunk(n)" go
            level by level, all products or n at a time in one go, which takes as many times the
            memory and suits parallel hardware; "sharded" goes level by level too, and spreads the
            products over the ranks of torch.distributed's process group, all of which have to
            call with the same problem and parameters, and get the same estimate; "auto" is what
            was measured to be best on the kind of device and model at hand: "loop", but for
            small models.
    """

    batching: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        check_batching(self.batching)
        if self.batching == SHARDED and self.compiled:
            raise OptionError('batching="sharded" and compiled=True do not go together')

    def cascade(
        self, problem: BilevelProblem, points: list[Params], g: Params, order: int, scale: float
    ) -> Params:
        """Returns u_L(0) over some of the inner loop's points.

        Args:
            problem: the bilevel problem.
            points: phi_m in the order of the inner loop.
            g: the outer gradient.
            order: L, 0 <= L <= the number of points.
            scale: what stands for alpha.
        """
        engine = self.engine_for(g)
        sharded = self.batching == SHARDED
        width = len(points) - order + 1
        size = at_once(self.batching, g, width=-(-width // ranks()[1]) if sharded else width)
        if size == 1 and not sharded:
            return by_point(problem.inner_loss, points, g, order, scale=scale, engine=engine)
        return by_level(
            problem.inner_loss,
            points,
            g,
            order,
            scale=scale,
            engine=engine,
            at_once=size,
            sharded=sharded,
        )


def by_point(
    loss: Loss, points: list[Params], g: Params, order: int, *, scale: float, engine: str
) -> Params:
    """Returns u_L(0), point by point: n serial steps, one gradient graph at a time.

    The products of one point share its gradient graph. Quickest and leanest on one processor.

    Args:
        loss: the inner loss.
        points: phi_m in the order of the inner loop.
        g: the outer gradient.
        order: L, 0 <= L <= n.
        scale: alpha.
        engine: for the products.
    """
    levels = [g]  # levels[l] is u_l; those above the top are equal to the top
    n = len(points)
    for m in reversed(range(n)) if order else ():
        top, bottom = min(order, n - m), max(1, order - m)
        if top == len(levels):
            levels.append(levels[-1])
        hessian = hessian_at(loss, points[m], engine=engine)
        for level in range(top, bottom - 1, -1):
            product = hessian.product(levels[level - 1], last=level == bottom)
            levels[level] = axpy(-scale, product, levels[level])
    return levels[-1]


def by_level(
    loss: Loss,
    points: list[Params],
    g: Params,
    order: int,
    *,
    scale: float,
    engine: str,
    at_once: int | None,
    sharded: bool = False,
) -> Params:
    """Returns u_L(0), level by level: L serial steps, the products of a level side by side.

    For hardware that can do several products at a time; memory grows with `at_once`.

    Args:
        loss: the inner loss.
        points: phi_m in the order of the inner loop.
        g: the outer gradient.
        order: L, 0 <= L <= n.
        scale: alpha.
        engine: for the products.
        at_once: how many products are taken in one go through vmap; None for a whole level.
        sharded: whether a level is spread over the ranks of the process group.
    """
    n = len(points)
    below = [g] * (n + 1)  # u_{l-1}(m) for m = 0..n; where not computed, not needed
    for level in range(1, order + 1):
        needed = list(range(order - level, n - level + 1))
        mine = share(needed) if sharded else needed
        products: list[Params] = []
        size = at_once or max(len(mine), 1)
        for chunk in (mine[i : i + size] for i in range(0, len(mine), size)):
            vectors = stack([below[m + 1] for m in chunk])
            hessian = hessian_at(
                summed(loss), stack([points[m] for m in chunk]), engine=engine, points=len(chunk)
            )
            products += unstack(hessian.product(vectors, last=True))
        if sharded:
            products = gathered(products, len(needed), g)
        above = list(below)  # exact already, and so alike, for m > n-l
        for m, product in reversed(list(zip(needed, products, strict=True))):
            above[m] = axpy(-scale, product, above[m + 1])
        below = above
    return below[0]


def elementary_sums(
    loss: Loss, points: list[Params], g: Params, order: int, *, scale: float, engine: str
) -> list[Params]:
    """Returns e_1(0), ..., e_L(0), with e_l(m) = e_l(m+1) - alpha H_m e_{l-1}(m+1), e_0 = g.

    e_l = sum over k_1 < ... < k_l of (-alpha)^l H_{k_1} ... H_{k_l} g: what Eq. 8 adds at order
    l. L(n-L) + L(L+1)/2 products, point by point, one gradient graph at a time.

    Args:
        loss: the inner loss.
        points: phi_m in the order of the inner loop, n of them.
        g: the outer gradient.
        order: L, 0 <= L <= n.
        scale: alpha.
        engine: for the products.
    """
    sums = [g]
    n = len(points)
    for m in reversed(range(n)) if order else ():
        hessian = hessian_at(loss, points[m], engine=engine)
        top = min(order, n - m)
        for level in range(top, 0, -1):
            product = hessian.product(sums[level - 1], last=level == 1)
            if level == len(sums):
                sums.append({name: -scale * value for name, value in product.items()})
            else:
                sums[level] = axpy(-scale, product, sums[level])
    return sums[1:]
