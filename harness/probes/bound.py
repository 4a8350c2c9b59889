"""What theory says of the error of a cell's estimator."""

import math
from collections.abc import Callable
from typing import Any

from estimators import Estimator, create
from estimators.binom import Binom
from estimators.bounds import (
    Bounded,
    binom_bound,
    fomaml_bound,
    hybrid_bound,
    truncated_bound,
)
from estimators.fomaml import Fomaml
from estimators.hybrid import Hybrid
from estimators.truncated import Truncated
from harness.cell import Cell

_BOUNDS: dict[type[Estimator], tuple[Callable[..., float], tuple[str, ...]]] = {
    Fomaml: (fomaml_bound, ()),
    Truncated: (truncated_bound, ("order",)),
    Binom: (binom_bound, ("order",)),
    Hybrid: (hybrid_bound, ("order", "window")),
}


def bound_of(cell: Cell, alpha_lambda_max: float) -> float | None:
    """Bound the error of a cell's estimator, given the largest curvature on the way.

    ||estimate - exact|| <= bound ||g||, g being the outer gradient at phi_K. All that is measured
    is ||alpha H_k||, so that of the assumptions in `estimators.bounds` `Bounded` alone is honest:
    networks have negative curvature, for which the stronger ones do not hold.

    Returns:
        In multiples of ||g||; inf beyond the largest float. None where the estimator has no
        bound, or is another than theory speaks of, a subclass say.

    Example:
        >>> cell = Cell.of(estimator="fomaml", task="sinusoid", model="mlp-40-40", depth=5)
        >>> bound_of(cell, 1.0)  # (1 + x)^K - 1
        31.0
    """
    estimator = create(cell.estimator)
    if type(estimator) not in _BOUNDS:
        return None
    if not math.isfinite(alpha_lambda_max):
        return math.inf
    bound, names = _BOUNDS[type(estimator)]
    options: dict[str, Any] = {name: getattr(estimator, name) for name in names}
    assumption = Bounded(smoothness=alpha_lambda_max / cell.step_size)
    return bound(assumption, cell.step_size, cell.depth, **options)
