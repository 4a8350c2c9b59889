"""Rows to rank."""

import math
from typing import Any

import pandas as pd

NAN = math.nan


def cell(
    estimator: str,
    bias: float = 0.5,
    time: float = 10.0,
    memory: float = 1.0,
    *,
    spread: float = 0.0,
    noise: float = 0.0,
    own: float = NAN,
    outcome: str = "ok",
    reason: str = "",
) -> dict[str, Any]:
    """A row with the interval bias ± spread and the quartiles time ± noise."""
    return {
        **{"run": "run", "cell": f"cell of {estimator}", "estimator": estimator},
        **{"family": estimator.partition("(")[0], "order": pd.NA, "own_bias": own},
        **{"bias": bias, "bias_low": bias - spread, "bias_high": bias + spread},
        **{"time_ratio": time, "time_ratio_low": time - noise, "time_ratio_high": time + noise},
        **{"peak_memory": memory, "outcome": outcome, "reason": reason},
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def reasons(advice: pd.DataFrame) -> dict[str, str]:
    return dict(zip(advice["estimator"], advice["why"], strict=True))


FOUR = table(
    cell("fomaml", 0.1, 6.0, 0.025),
    cell("maml", 3e-17, 11.4, 0.077),
    cell("binom(order=4)", 3.5e-9, 21.6, 0.05, spread=1e-10),
    cell("adjoint", 0.0, 18.4, 0.08),
)
