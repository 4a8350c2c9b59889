"""What an estimate takes at least, in inner gradients: the project's cost model."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from estimators.base.errors import OptionError
from estimators.base.registry import Spec


def floor(
    family: str,
    order: int | None,
    depth: int,
    *,
    products: float = math.nan,
    options: Mapping[str, Any] | None = None,
) -> float:
    """Returns how many inner gradients an estimate costs at least.

    A gradient is 1 and a Hessian-vector product 2, and 1 more where its point's gradient graph is
    built for it alone; products at one point share that graph. The outer gradient is taken for
    one inner gradient, as where query and support set are of one size.

    Source: the cost model in docs/performance.md ("with shared graphs"), which
    tests/test_cost_model.py holds against counted FLOPs. The textbook count takes 3 for every
    product and is no floor: `binom`, `binom-calibrated` and the implicit estimators need less.

    Returns:
        The floor; NaN where there is none for this estimator.

    Example:
        >>> floor("maml", None, 5), floor("binom", 2, 5), floor("someone:new", None, 5)
        (16.0, 27.0, nan)
    """
    options = options or {}
    if options.get("engine") == "finite-difference":  # differences of gradients: no graph is built
        return math.nan
    fixed = {
        "maml": 3 * depth + 1 if options.get("checkpoint", "none") == "none" else 4 * depth + 1,
        "adjoint": 4 * depth + 1,
        "hf-maml": 3 * depth + 1,
        "fomaml": depth + 1,
        "reptile": depth,
        "imaml": depth + 2 + 2 * products,
        "neumann": depth + 2 + 2 * products,
    }
    if family in fixed:
        return float(fixed[family])
    if family == "mixed":  # a weight of 0 saves an outer gradient; only numbers can be 0
        return 5.0 * depth if isinstance(options.get("weights", ""), str) else math.nan
    if order is None:
        return math.nan
    if order == 0:
        return depth + 1.0
    window = options.get("window", math.nan)
    ordered = {
        "truncated": depth + 2 * order + 1,
        "binom": 2 * depth + 2 * order * (depth - order + 1) + 1,
        "binom-released": 2 * depth + 2 * order * (depth - order + 1) + 1,
        "binom-calibrated": 2 * depth + order * (2 * depth - order + 1) + 1,
        "hybrid": depth + window + 2 * order * (window - order + 1) + 1,
    }
    return float(ordered.get(family, math.nan))


def floors(rows: pd.DataFrame) -> "pd.Series[float]":
    """Returns the floor of each cell, in inner gradients; NaN where there is none."""
    found = [
        floor(
            family,
            None if pd.isna(order) else int(order),
            int(depth),
            products=hvps,
            options=_options(estimator),
        )
        for estimator, family, order, depth, hvps in zip(
            *(rows[name] for name in ("estimator", "family", "order", "depth", "hvps")), strict=True
        )
    ]
    return pd.Series(found, index=rows.index, dtype=float)


def _options(estimator: str) -> dict[str, Any]:
    try:
        return Spec.parse(estimator).options
    except OptionError:
        return {}
