"""The Pareto front, and the errors that count as exact in a comparison."""

import pandas as pd

# Relative errors below this are float64 rounding: such estimators are exact.
EXACT = 1e-12
_ERRORS = (
    *("bias", "bias_t2", "own_bias", "batch_bias", "systematic_bias", "error_spread"),
    *("spread", "rmse", "bias_limit"),
)
_ANGLES = ("cosine_distance", "batch_cosine_distance")  # half the square of an error


def exact_below(name: str) -> float:
    """Return the limit below which a metric is rounding of 0; 0 where it has no rounding."""
    if name in _ANGLES:
        return EXACT**2
    return EXACT if name in _ERRORS else 0.0


def pareto(rows: pd.DataFrame, x: str, y: str) -> "pd.Series[bool]":
    """Return which rows are on the Pareto front of two metrics, lower being better for both.

    Equal rows are all on it, and errors that are rounding are equal: see `exact_below`. A row of
    which one of the two is not known is never on it.
    """
    both = pd.DataFrame({"x": _comparable(rows[x]), "y": _comparable(rows[y])})
    least = both.dropna().groupby("x")["y"].min()  # sorted by x
    best_before = least.cummin().shift()
    front_of_x = least[~(least >= best_before)]
    front: pd.Series[bool] = both["y"] == both["x"].map(front_of_x)
    return front


def _comparable(values: "pd.Series[float]") -> "pd.Series[float]":
    values = values.astype(float)
    rounding = values.abs() < exact_below(str(values.name))
    return values.mask(rounding, 0.0)
