"""Binomial estimator whose weights follow from the curvature that its products meet."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from estimators.base.estimator import Cost, MetaGradient, Ordered
from estimators.base.problem import BilevelProblem
from estimators.base.registry import register
from estimators.base.tree import Params, flat, shaped
from estimators.methods.backpropagation import adapt
from estimators.methods.cascade import elementary_sums
from estimators.methods.chebyshev import chebyshev_weights
from estimators.methods.options import TakesProducts

_SMALL = 0.01  # change of the estimate by its last order that is taken whatever it is
_MARGIN = 1.1  # products find less than the largest curvature, and weights for less blow up


@register("binom-chebyshev")
@dataclass(frozen=True)
class BinomChebyshev(Ordered, TakesProducts):
    """g + sum_{l=1..L} c_l e_l, e_l = sum_{k_1<...<k_l} (-alpha)^l H_{k_1} ... H_{k_l} g.

    Eq. 8 of `binom` has c_l = 1: a Taylor polynomial of the product, poor once alpha lambda_max
    nears 1. Here c_l are fitted so that the polynomial is near the product for all curvatures from
    0 to the largest (`estimators.methods.chebyshev`), which is told, step by step, by what the
    products of the sums do to lengths: r_k = 1.1 alpha max ||H_k v|| / ||v||. No probe tasks, no
    product more than the sums take. Where the last order changes the estimate more than the one
    before it, which too small an r_k leads to, or its sums cancel to rounding, it is left out, with
    a warning.
    L = 0 is `fomaml`, L = K is `maml`.
    Cost: K+1 inner gradients and L(K-L) + L(L+1)/2 HVPs, of which L must follow one another.

    Attributes:
        order: L, 0 <= L <= K.

    Source: this project's own, after Eq. 8 of Zhang et al., ICLR 2026, arXiv 2604.13263; that a
    degree of about sqrt(2 K log(2 / error)) is enough: Newman and Rivlin, "Approximation of
    monomials by lower degree polynomials", Aequationes Mathematicae 1976.

    Example:
        >>> import torch
        >>> from estimators import BilevelProblem, create
        >>> loss = lambda params: 0.5 * (params["w"] ** 2).sum()
        >>> problem = BilevelProblem(loss, loss, step_size=0.5, steps=4)
        >>> create("binom-chebyshev(order=3)")(problem, {"w": torch.ones(1)}).gradient["w"]
        tensor([0.0039])
    """

    @property
    def batchable(self) -> bool:
        """False: the weights depend on all problems of a stack."""
        return False

    def cost(self, steps: int) -> Cost:
        """See `Estimator.cost`."""
        hvps = self._hvps(steps)
        return Cost(steps + 1 + (self.graphs(steps) if self.order else 0), hvps, self.order)

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        steps, order = problem.steps, self.order
        points, adapted, outer_loss, g = adapt(problem, params)
        met: list[list[Tensor]] = [[] for _ in points]
        tiny = torch.finfo(torch.float64).tiny

        def meet(k: int, vector: Params, product: Params) -> None:
            known = _length(vector.values()).clamp_min(tiny)  # a vector that vanished has met 0
            met[k].append(_length(product.values()) / known)

        engine = self.engine_for(params)
        sums = elementary_sums(problem, points, g, order, engine=engine, seen=meet)
        gradient = g
        if sums:
            ratios = torch.stack([torch.stack(each).amax() for each in met]).cpu()
            rows = torch.stack([flat(each) for each in sums])
            known = order < steps and bool(rows.isfinite().all() and ratios.isfinite().all())
            weigh = self._weighted if known else _added  # exact, or lost anyway
            total = weigh(flat(g), rows, _MARGIN * problem.alpha * ratios)
            gradient = shaped(total, g)
        return MetaGradient(gradient, outer_loss, adapted, self._hvps(steps), order)

    def _weighted(self, g: Tensor, rows: Tensor, profile: Tensor) -> Tensor:
        """Return g + sum_l c_l e_l, for r_k such as the products have found."""
        full = len(profile) - self.order  # the last ones are met by few products
        profile[full:] = profile[full:].clamp_min(float(profile[full]))
        fits = [torch.zeros(self.order, dtype=torch.float64, device="cpu")]
        for order in range(1, self.order + 1):
            fits.append(fits[0].clone())
            fits[-1][:order] = chebyshev_weights(profile.tolist(), order)
        changes = [float(_length([_combined(b - a, rows)])) for a, b in pairwise(fits)]
        sizes = torch.stack([_length([row]) for row in rows]).cpu()
        rounding = 10 * torch.finfo(rows.dtype).eps
        for order in range(self.order, 0, -1):
            estimate = g + _combined(fits[order], rows)
            small = _SMALL * float(_length([estimate]))
            grows = order > 1 and changes[order - 1] > max(changes[order - 2], small)
            if not grows and rounding * float(fits[order].abs() @ sizes) <= small:
                break
        if order < self.order:
            warnings.warn(
                f"{self.title}: orders above {order} of {self.order} are left out, since they "
                "change the estimate more than the one before, or are lost in rounding: the "
                "curvature along the inner loop is larger than its products have met, or large "
                "sums cancel (float64 has more digits)",
                stacklevel=2,
            )
        return estimate

    def _hvps(self, steps: int) -> int:
        return self.order * (steps - self.order) + self.order * (self.order + 1) // 2


def _added(g: Tensor, rows: Tensor, profile: Tensor) -> Tensor:
    del profile
    return g + rows.sum(0)


def _combined(weights: Tensor, rows: Tensor) -> Tensor:
    """Return a weighted sum, which autocast does not take for a layer's product."""
    return (weights.to(rows)[:, None] * rows).sum(0)


def _length(tensors: Iterable[Tensor]) -> Tensor:
    lengths = torch.stack(torch._foreach_norm([*tensors], 2, torch.float64))
    total: Tensor = torch.linalg.vector_norm(lengths)
    return total
