"""Krylov estimator: the inner loop in segments, each with one Hessian and a few products."""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

from torch import Tensor

from estimators.base.errors import OptionError
from estimators.base.estimator import Cost, MetaGradient
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, flat, shaped
from estimators.hvp import Hessian, kernels_for
from estimators.methods.backpropagation import adapt_in_segments
from estimators.methods.lanczos import lanczos_steps
from estimators.methods.options import Compilable, TakesProducts

_LONG = 4  # inner steps for a product, beyond which two products in one space do better than one


class Segment(NamedTuple):
    """Some consecutive inner steps.

    Attributes:
        start: k of the first step.
        stop: k after the last step.
        order: products that are taken, no more than steps.
    """

    start: int
    stop: int
    order: int

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.stop - self.start


@register("krylov")
@dataclass(frozen=True)
class Krylov(TakesProducts, Compilable):
    """B_1 B_2 ... B_S g, B_s g ~ (I - alpha H(z_s))^n_s g by L products, z_s the mean iterate.

    The inner loop is cut into S segments of n_s = K/S steps or so. From the last to the first, the
    Hessian of a segment is taken for constant, at the mean z_s of its iterates, and its steps for
    a function of that Hessian: by L Lanczos steps (`estimators.methods.lanczos`), or by the steps
    themselves where there are no more than L. S L products in all, serial, fewer than those of
    exact back-propagation at any depth; as many products as steps are exact. It errs less than
    `truncated` with as many products, before and after meta-training (docs/beyond-taylor.md).
    Cost: (K+1) inner gradients, S graphs and S L HVPs; S + L + 1 vectors in memory besides one
    graph, at any K.

    Attributes:
        products: S L, 1 <= S L <= K.
        segments: S, which share the products, the first ones what is left over, and have as many
            steps as that; None is what was measured to be best: a product each, or two where there
            are more than 4 inner steps for a product, and 4 products or more.

    Source: this project's own, after Lanczos' method for functions of matrices (Saad, "Analysis of
    some Krylov subspace approximations to the matrix exponential operator", SIAM J. Numer. Anal.
    1992), with coefficients frozen piece by piece as in exponential integrators.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=10)
        >>> krylov = create("krylov(products=1)")  # for all 10 steps; exact for one curvature
        >>> krylov(problem, {"w": torch.ones(1)}).gradient["w"] * 2**20
        tensor([1.])
    """

    products: int
    segments: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.products < 1:
            raise OptionError(f"krylov: products={self.products} must be 1 or more")
        if self.segments is not None and not 1 <= self.segments <= self.products:
            raise OptionError(
                f"krylov: segments={self.segments} is outside 1..{self.products}; each takes a "
                "product or more"
            )

    @property
    def batchable(self) -> bool:
        """False: the lengths in Lanczos' method depend on all problems of a stack."""
        return False

    def unsupported_reason(self, steps: int) -> str | None:
        """See `Estimator.unsupported_reason`."""
        if self.products > steps:
            return f"krylov: products={self.products} is outside 1..{steps} (the depth is {steps})"
        return None

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        segments = len(self.spread(steps))
        return Cost(steps + 1 + self.graphs(segments), self.products, self.products)

    def spread(self, steps: int) -> list[Segment]:
        """Return the segments, in the order of the inner loop.

        Args:
            steps: K, a depth that `unsupported_reason` does not name.

        Example:
            >>> [tuple(part) for part in Krylov(products=3).spread(7)]
            [(0, 2, 1), (2, 5, 1), (5, 7, 1)]
        """
        count = self.segments
        if count is None:
            pairs = self.products >= 4 and steps > _LONG * self.products
            count = (self.products + 1) // 2 if pairs else self.products
        each, rest = divmod(self.products, count)
        orders = [each + (place < rest) for place in range(count)]
        edges = [round(taken * steps / self.products) for taken in accumulate(orders, initial=0)]
        parts: list[Segment] = []
        for order, (start, stop) in zip(orders, pairwise(edges), strict=True):
            single = stop - start <= order  # exactly, step by step, for no more products
            parts += (
                [Segment(k, k + 1, 1) for k in range(start, stop)]
                if single
                else [Segment(start, stop, order)]
            )
        return parts

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        parts = self.spread(problem.steps)
        bounds = [(part.start, part.stop) for part in parts]
        points, adapted, outer_loss, g = adapt_in_segments(problem, params, bounds)
        vector, taken = flat(g), 0
        with kernels_for(self.engine_for(params)):
            for part, point in zip(reversed(parts), reversed(points), strict=True):
                hessian = self.hessian_at(problem, point)
                product = partial(_product, hessian, g)
                if part.steps == 1:
                    vector, more = vector - problem.alpha * product(vector, last=True), 1
                else:
                    vector, more = lanczos_steps(
                        product,
                        vector,
                        steps=part.steps,
                        order=part.order,
                        alpha=problem.alpha,
                    )
                taken += more
        return MetaGradient(shaped(vector, g), outer_loss, adapted, taken, taken)


def _product(hessian: Hessian, like: Params, vector: Tensor, last: bool) -> Tensor:
    return flat(hessian.product(shaped(vector, like), last=last))
