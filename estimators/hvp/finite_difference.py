"""Finite differences of the gradient: no second derivative at all."""

import torch

from estimators.differentiation import Loss, value_and_gradient
from estimators.hvp.hessian import Hessian
from estimators.tree import Params, axpy, leaves, norm


class FiniteDifference(Hessian):
    """H v = [grad loss(params + d v) - grad loss(params - d v)] / 2d, up to O(d^2).

    d = eps^(1/3) (1 + ||params||) / ||v||, eps being the precision of the parameters' type: the
    truncation error, which grows with d^2, and the rounding error, which grows with 1/d, are
    then of one size. Two gradients a product; nothing is kept between products.

    Source: Fallah, Mokhtari, Ozdaglar, "On the Convergence Theory of Gradient-Based
    Model-Agnostic Meta-Learning Algorithms" (HF-MAML), AISTATS 2020; the choice of d is the
    usual one for central differences (Nocedal and Wright, "Numerical Optimization", section 8.1).
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        self._loss, self._params = loss, params
        precision = max(torch.finfo(value.dtype).eps for value in params.values())
        self._reach = precision ** (1 / 3) * (1 + norm(params))

    def _product(self, vector: Params, *, last: bool) -> Params:
        length = norm(vector)
        if length == 0:
            return {name: torch.zeros_like(value) for name, value in vector.items()}
        step = self._reach / length
        ahead, behind = (self._gradient(sign * step, vector) for sign in (1, -1))
        return {name: (ahead[name] - behind[name]) / (2 * step) for name in vector}

    def _gradient(self, step: float, vector: Params) -> Params:
        _, gradient = value_and_gradient(self._loss, leaves(axpy(step, vector, self._params)))
        return gradient
