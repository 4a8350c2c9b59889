"""Finite differences of the gradient: no second derivative at all."""

import math

import torch
from torch import Tensor

from estimators.base.differentiation import Loss, value_and_gradient
from estimators.base.tree import Params, axpy, detached, leaves, norm
from estimators.hvp.hessian import Hessian


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
        rms = length / math.sqrt(entries)
        self._reach = max(precision**0.6 * rms, 8 * precision * length / math.sqrt(self._points))

    def _product(self, vector: Params, *, last: bool) -> Params:
        # Stacked points have steps of their own: the shorter vectors would drown in rounding.
        sizes, steps = self._steps(vector), {}
        for name, value in vector.items():
            shape = (-1, *[1] * (value.dim() - 1)) if self._points > 1 else ()
            steps[name] = sizes.to(value.dtype).reshape(shape)
        moves = {name: steps[name] * value for name, value in vector.items()}
        forward, backward = (self._gradient(sign, moves) for sign in (1.0, -1.0))
        return {name: (forward[name] - backward[name]) / (2 * steps[name]) for name in vector}

    def _steps(self, vector: Params) -> Tensor:
        """Return d, float64; one for each point, if several are stacked."""
        squares = [value.double().square() for value in vector.values()]
        if self._points > 1:
            total = torch.stack([each.reshape(self._points, -1).sum(1) for each in squares]).sum(0)
        else:
            total = torch.stack([each.sum() for each in squares]).sum()
        lengths = torch.where(total > 0, total, 1.0).sqrt()
        return torch.full_like(lengths, self._reach) / lengths

    def _gradient(self, sign: float, moves: Params) -> Params:
        device = next(iter(moves.values())).device.type
        with torch.autocast(device, enabled=False):  # its rounding would drown the difference
            _, gradient = value_and_gradient(self._loss, leaves(axpy(sign, moves, self._params)))
        return gradient
