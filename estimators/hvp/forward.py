"""Forward over reverse: carry a tangent through the computation of the gradient."""

import os
import warnings
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

from estimators.base.differentiation import Loss, operations, value_and_gradient
from estimators.base.errors import OptionError
from estimators.base.tree import Params, leaves
from estimators.hvp.hessian import Hessian
from estimators.hvp.reverse import refusal

# Operations whose forward mode gives wrong numbers, by the node of autograd's graph:
# https://github.com/pytorch/pytorch/issues/198017, 196682, 196702, 196707.
_WRONG = {
    "CholeskyInverseBackward0": "cholesky_inverse",
    "ScatterReduceBackward0": "scatter_reduce(reduce='prod')",
    "TriangularSolveBackward0": "triangular_solve",
}


class Forward(Hessian):
    """H v as the tangent of grad loss(params + t v) at t = 0.

    Nothing is kept between products: each costs about three gradients.

    Raises:
        OptionError: an operation of the loss has no forward mode, or a wrong one; the message names
            it, and the engine to use instead.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        _load_rules()
        self._loss, self._params = loss, params

    def _product(self, vector: Params, *, last: bool) -> Params:
        try:
            return self._tangent(vector)
        except RuntimeError as error:
            operation = self._failing_operation(vector)
            raise refusal("forward", error, self._loss, self._params, operation) from error

    def _failing_operation(self, vector: Params) -> str:
        """Repeat the failed call under the profiler, which knows the last operation to start."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or torch logs every profile
        with (
            profile(activities=[ProfilerActivity.CPU]) as profiler,
            suppress(RuntimeError),
        ):
            self._tangent(vector)
        backward = "autograd::engine::evaluate_function: "
        starts = sorted((event.time_range.start, event.name) for event in profiler.events() or ())
        names = [name for _, name in starts if name.startswith((backward, "aten::"))]
        failing = [name for name in names if name.startswith(backward)] or names
        return failing[-1].removeprefix(backward) if failing else "an operation"

    def _tangent(self, vector: Params) -> Params:
        with forward_ad.dual_level():
            point = {
                name: forward_ad.make_dual(value, vector[name])  # type: ignore[no-untyped-call]
                for name, value in leaves(self._params).items()
            }
            # Without a graph, some of torch's formulas take short cuts that lose the tangent:
            # https://github.com/pytorch/pytorch/issues/192540.
            value, gradient = value_and_gradient(self._loss, point, create_graph=True)
            _refuse_wrong(value)
            product: Params = {}
            for name, slope in gradient.items():
                tangent = forward_ad.unpack_dual(slope).tangent  # type: ignore[no-untyped-call]
                flat = tangent is None  # the gradient is constant in the parameters
                product[name] = torch.zeros_like(slope) if flat else tangent.detach()
            return product


@cache
def _load_rules() -> None:
    """Load torch's rules of forward mode ahead of their first use.

    torch loads them by `torch.jit.script`, and warns of that as if the user had called it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward_ad._maybe_load_decompositions()  # type: ignore[no-untyped-call]


def _refuse_wrong(value: Tensor) -> None:
    for node in operations(value):
        name = node.name()
        if name in _WRONG and getattr(node, "_saved_reduce", "prod") == "prod":
            raise OptionError(
                f"engine='forward': torch's forward mode of {_WRONG[name]} is wrong; "
                "use engine='reverse'"
            )
