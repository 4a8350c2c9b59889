"""What every engine for Hessian-vector products is."""

from abc import ABC, abstractmethod

from estimators.base.differentiation import Loss
from estimators.base.tree import Params
from estimators.hvp.count import tell


class Hessian(ABC):
    """The Hessian of a loss at one point, as an operator; subclasses are the engines.

    Args:
        loss: maps parameters to a scalar tensor.
        params: the point; left as it is.
        points: how many points are stacked in `params`; each counts as a product.
    """

    def __init__(self, loss: Loss, params: Params, points: int = 1) -> None:
        self._points = points
        self._spent = False
        self._prepare(loss, params)

    def product(self, vector: Params, *, last: bool) -> Params:
        """Returns H v.

        Args:
            vector: keyed and shaped as the point.
            last: free what was kept for further products; none can be taken then.

        Returns:
            The product, detached, keyed and shaped as the point.

        Raises:
            RuntimeError: the last product was taken before.
        """
        if self._spent:
            raise RuntimeError("no product can be taken after the one marked as the last")
        self._spent = last
        tell(self._points)
        return self._product(vector, last=last)

    @abstractmethod
    def _prepare(self, loss: Loss, params: Params) -> None:
        """Does the work that all products at the point share."""

    @abstractmethod
    def _product(self, vector: Params, *, last: bool) -> Params:
        """See `product`."""
