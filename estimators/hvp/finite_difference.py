"""Finite differences of the gradient: no second derivative at all."""

import math

import torch

from estimators.differentiation import Loss, value_and_gradient
from estimators.hvp.hessian import Hessian
from estimators.tree import Params, axpy, detached, leaves, norm


class FiniteDifference(Hessian):
    """H v = [grad loss(params + d v) - grad loss(params - d v)] / 2d, up to O(d^2).

    d ||v|| = max(eps^(3/5) rms, 8 eps ||params||), eps being the precision of the parameters'
    type and rms the root mean square of their entries. Smooth losses allow eps^(1/3), but a step
    that long crosses kinks of ReLU and max-pooling, and a product in float32 is then worth
    nothing; the exponent was chosen on networks with kinks, in both precisions, and the second
    term keeps the step above rounding in large models. Two gradients a product; nothing is kept
    between products.

    Source: Fallah, Mokhtari, Ozdaglar, "On the Convergence Theory of Gradient-Based
    Model-Agnostic Meta-Learning Algorithms" (HF-MAML), AISTATS 2020.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        self._loss, self._params = loss, detached(params)
        precision = max(torch.finfo(value.dtype).eps for value in params.values())
        entries = sum(value.numel() for value in params.values())
        length = norm(self._params) or math.sqrt(entries)  # at zero, as if all entries were one
        self._reach = max(precision**0.6 * length / math.sqrt(entries), 8 * precision * length)

    def _product(self, vector: Params, *, last: bool) -> Params:
        length = norm(vector)
        if length == 0:
            return {name: torch.zeros_like(value) for name, value in vector.items()}
        step = self._reach / length
        ahead, behind = (self._gradient(sign * step, vector) for sign in (1, -1))
        return {name: (ahead[name] - behind[name]) / (2 * step) for name in vector}

    def _gradient(self, step: float, vector: Params) -> Params:
        device = next(iter(vector.values())).device.type
        with torch.autocast(device, enabled=False):  # its rounding would drown the difference
            _, gradient = value_and_gradient(self._loss, leaves(axpy(step, vector, self._params)))
        return gradient
