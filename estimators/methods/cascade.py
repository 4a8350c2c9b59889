"""The cascade behind the binomial estimators.

u_l(m) = u_l(m+1) - alpha H_m u_{l-1}(m+1), where u_l(m) is the order-l truncation of
A_m ... A_{n-1} g over n points; u_0 = g, u_l(n) = g, and the answer is u_L(0). u_l(m) is exact
from l = n-m on, so that level l needs only the points m = L-l .. n-l: L(n-L+1) products. The
recursion over points was derived for this project from Eq. 8 of arXiv 2604.13263.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from estimators.base.agreement import fault_of_vmap, kind_of
from estimators.base.differentiation import Loss, summed, value_and_gradient
from estimators.base.errors import OptionError
from estimators.base.estimator import Cost
from estimators.base.map_problem import MapProblem
from estimators.base.problem import BilevelProblem
from estimators.base.tree import Params, axpy, leaves, stack, unstack
from estimators.hvp import count_hvps, curvature_at, hessian_at, hvp, kernels_for
from estimators.hvp.sharding import gather, rank_and_size, share
from estimators.hvp.streams import run_on_streams
from estimators.methods.options import AUTO, Compilable, TakesProducts, measured_default
from estimators.programs.compiled import CompiledProblem, Points

SHARDED = "sharded"
STREAMS = "streams"
_BATCHING = (AUTO, "loop", "vmap", STREAMS, SHARDED)
_CHUNK = re.compile(r"chunk\(([1-9]\d*)\)")

Products = Callable[[Loss, Sequence[Params], Sequence[Params]], list[Params]]
"""Take the product of the loss's Hessian at each point with the vector of the same place."""


@dataclass(frozen=True, kw_only=True)
class Cascading(TakesProducts, Compilable):
    """An estimator that cascades over the inner steps.

    Attributes:
        batching: "loop" goes point by point, one product after another; "vmap" and "chunk(n)" go
            level by level, all products or n at a time in one go, which takes as many times the
            memory and suits parallel hardware; "streams" goes level by level too, one product
            after another on a few CUDA streams in turns, so that a GPU can compute several at a
            time (other devices take them in order); "sharded" spreads the products of a level
            over the ranks of torch.distributed's process group, all of which have to call with
            the same problem and parameters, and get the same estimate; "auto" is the one measured
            to be best for the device and model: "loop", except for small models.
    """

    batching: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.batching in _BATCHING or _CHUNK.fullmatch(self.batching)):
            names = ", ".join((*_BATCHING, "chunk(2)", "chunk(3)", "..."))
            raise OptionError(f"batching={self.batching!r} is none of {names}")
        if self.batching != AUTO and self.compiled:
            raise OptionError(f'batching="{self.batching}" and compiled=True do not go together')

    def cascade_cost(self, steps: int, points: int, order: int) -> Cost:
        """Return the cost of the inner loop, the outer gradient and `cascade` together.

        L(n-L+1) products; at least one graph a point, as point by point.

        Args:
            steps: K.
            points: n, those of the cascade.
            order: L, 0 <= L <= n.
        """
        graphs = self.graphs(points) if order else 0
        return Cost(steps + 1 + graphs, order * (points - order + 1), order)

    def cascade(
        self, problem: BilevelProblem, points: Points, g: Params, order: int, scale: float
    ) -> Params:
        """Return u_L(0) over some of the inner loop's points.

        Args:
            problem: the bilevel problem.
            points: phi_m in the order of the inner loop.
            g: the outer gradient.
            order: L, 0 <= L <= the number of points.
            scale: used in place of alpha.
        """
        if isinstance(problem, CompiledProblem):
            return problem.cascade(points, g, order, scale)
        engine = self.engine_for(g)
        if isinstance(problem, MapProblem):
            return by_point(problem, points, g, order, scale=scale, engine=engine)
        sharded = self.batching == SHARDED
        if self.batching == STREAMS:
            products: Products = partial(_streamed, engine=engine)
        else:
            width = len(points) - order + 1
            if sharded:
                width = -(-width // rank_and_size()[1])
            size = _chunk_size(self.batching, g, width)
            if order and size != 1 and not self._takes_vmap(problem.inner_loss, points, g, engine):
                size = 1
            if size == 1 and not sharded:
                return by_point(problem, points, g, order, scale=scale, engine=engine)
            products = partial(_batched, engine=engine, at_once=size)
        return by_level(
            problem.inner_loss, points, g, order, scale=scale, products=products, sharded=sharded
        )

    def _takes_vmap(self, loss: Loss, points: list[Params], g: Params, engine: str) -> bool:
        """Return whether products may be taken at once; those of two points are compared.

        Raises:
            OptionError: they may not, though that was asked for.
        """
        pair = [points[0], points[-1]]

        def warned(reason: str) -> None:
            warnings.warn(
                f"{self.title}: products are taken one after another, since vmap cannot take them "
                f'together ({reason}); batching="loop" does so without this warning',
                stacklevel=2,
            )

        asked = self.batching not in (AUTO, SHARDED)
        with count_hvps():  # those of an estimate are counted without these
            reason = fault_of_vmap(
                kind_of(loss, g, engine),
                lambda: unstack(_change(summed(loss), stack(pair), stack([g, g]), engine)),
                lambda: [_change(loss, point, g, engine) for point in pair],
                on_first_fault=None if asked else warned,
            )
        if reason and asked:
            raise OptionError(
                f'batching="{self.batching}": vmap cannot take products of this loss together '
                f'({reason}); use batching="loop"'
            )
        return not reason


def _change(loss: Loss, point: Params, vector: Params, engine: str) -> Params:
    """Return a product, or the gradient where products are only as good as its rounding."""
    if engine == "finite-difference":
        return value_and_gradient(loss, leaves(point))[1]
    return hvp(loss, point, vector, engine=engine)


def _chunk_size(batching: str, params: Params, width: int) -> int | None:
    """Return how many of `width` independent products to take in one go; None for no limit."""
    if batching in (AUTO, SHARDED):
        default = measured_default(params)
        batching = default.batching if width >= default.from_width else "loop"
    match = _CHUNK.fullmatch(batching)
    if match:
        return int(match[1])
    return 1 if batching == "loop" else None


def by_point(
    problem: BilevelProblem,
    points: list[Params],
    g: Params,
    order: int,
    *,
    scale: float,
    engine: str,
) -> Params:
    """Return u_L(0), point by point: n serial steps, one gradient graph at a time.

    The products of one point share its gradient graph. Quickest and leanest on one processor.

    Args:
        problem: the bilevel problem; gradient descent, or a map of which these are all points.
        points: phi_m in the order of the inner loop.
        g: the outer gradient.
        order: L, 0 <= L <= n.
        scale: alpha.
        engine: for the products.
    """
    levels = [g]  # levels[l] is u_l; those above the top are equal to the top
    n = len(points)
    with kernels_for(engine):
        for m in reversed(range(n)) if order else ():
            top, bottom = min(order, n - m), max(1, order - m)
            if top == len(levels):
                levels.append(levels[-1])
            hessian = curvature_at(problem, m, points[m], engine=engine)
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
    products: Products,
    sharded: bool = False,
) -> Params:
    """Return u_L(0), level by level: L serial steps, the products of a level side by side.

    For hardware that can do several products at a time.

    Args:
        loss: the inner loss.
        points: phi_m in the order of the inner loop.
        g: the outer gradient.
        order: L, 0 <= L <= n.
        scale: alpha.
        products: takes those of a level, or this process's share of them.
        sharded: whether a level is spread over the ranks of the process group.
    """
    n = len(points)
    below = [g] * (n + 1)  # u_{l-1}(m) for m = 0..n; where not computed, not needed
    for level in range(1, order + 1):
        needed = list(range(order - level, n - level + 1))
        mine = share(needed) if sharded else needed
        results = products(loss, [points[m] for m in mine], [below[m + 1] for m in mine])
        if sharded:
            results = gather(results, len(needed), g)
        above = list(below)  # exact already, and so alike, for m > n-l
        for m, product in reversed(list(zip(needed, results, strict=True))):
            above[m] = axpy(-scale, product, above[m + 1])
        below = above
    return below[0]


def _batched(
    loss: Loss,
    points: Sequence[Params],
    vectors: Sequence[Params],
    *,
    engine: str,
    at_once: int | None,
) -> list[Params]:
    """Take `at_once` products in one go through vmap, or all of them; memory grows with it."""
    if at_once == 1:
        return [hvp(loss, *pair, engine=engine) for pair in zip(points, vectors, strict=True)]
    products: list[Params] = []
    size = at_once or max(len(points), 1)
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        hessian = hessian_at(summed(loss), stack(chunk), engine=engine, points=len(chunk))
        products += unstack(hessian.product(stack(vectors[start : start + size]), last=True))
    return products


def _streamed(
    loss: Loss, points: Sequence[Params], vectors: Sequence[Params], *, engine: str
) -> list[Params]:
    """Take one product after another, each on the next of a few streams."""
    calls = [
        partial(hvp, loss, point, vector, engine=engine)
        for point, vector in zip(points, vectors, strict=True)
    ]
    device = next(iter(points[0].values())).device
    return run_on_streams(calls, device)


def elementary_sums(
    problem: BilevelProblem,
    points: Sequence[Params],
    g: Params,
    order: int,
    *,
    engine: str,
    seen: Callable[[int, Params, Params], None],
) -> list[Params]:
    """Return e_1(0), ..., e_L(0), with e_l(m) = e_l(m+1) - alpha H_m e_{l-1}(m+1), e_0 = g.

    e_l = sum over k_1 < ... < k_l of (-alpha)^l H_{k_1} ... H_{k_l} g: what Eq. 8 adds at order
    l. L(n-L) + L(L+1)/2 products, point by point, one gradient graph at a time.

    Args:
        problem: the bilevel problem.
        points: phi_m in the order of the inner loop, n of them.
        g: the outer gradient.
        order: L, 0 <= L <= n.
        engine: for the products.
        seen: is told of each product: its point's place, the vector and the product.
    """
    scale = problem.alpha
    sums = [g]
    n = len(points)
    for m in reversed(range(n)) if order else ():
        hessian = hessian_at(problem.inner_loss, points[m], engine=engine)
        top = min(order, n - m)
        for level in range(top, 0, -1):
            product = hessian.product(sums[level - 1], last=level == 1)
            seen(m, sums[level - 1], product)
            if level == len(sums):
                sums.append({name: -scale * value for name, value in product.items()})
            else:
                sums[level] = axpy(-scale, product, sums[level])
    return sums[1:]
