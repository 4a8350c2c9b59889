"""Forward over reverse: carry a tangent through the computation of the gradient."""

from contextlib import suppress

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from estimators.differentiation import Loss, value_and_gradient
from estimators.errors import OptionError
from estimators.hvp.hessian import Hessian
from estimators.tree import Params, leaves


class Forward(Hessian):
    """H v as the tangent of grad loss(params + t v) at t = 0.

    Nothing is kept between products: each costs about three gradients.

    Raises:
        OptionError: an operation of the loss has no forward mode; the message names it, and the
            engine to use instead.
    """

    def _prepare(self, loss: Loss, params: Params) -> None:
        self._loss, self._params = loss, params

    def _product(self, vector: Params, *, last: bool) -> Params:
        try:
            return self._tangent(vector)
        except (RuntimeError, NotImplementedError) as error:
            with _LastOperation() as seen, suppress(RuntimeError, NotImplementedError):  # type: ignore[no-untyped-call]
                self._tangent(vector)
            reason = str(error).splitlines()[0]
            raise OptionError(
                f"engine='forward': {seen.name} has no forward mode here ({reason}); "
                "use engine='reverse'"
            ) from error

    def _tangent(self, vector: Params) -> Params:
        with forward_ad.dual_level():
            point = {
                name: forward_ad.make_dual(value, vector[name])  # type: ignore[no-untyped-call]
                for name, value in leaves(self._params).items()
            }
            _, gradient = value_and_gradient(self._loss, point)
            product: Params = {}
            for name, slope in gradient.items():
                tangent = forward_ad.unpack_dual(slope).tangent  # type: ignore[no-untyped-call]
                flat = tangent is None  # the gradient is constant in the parameters
                product[name] = torch.zeros_like(slope) if flat else tangent.detach()
            return product


class _LastOperation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the last operation that was asked for: the one that failed."""

    name = "an operation"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.name = func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))
