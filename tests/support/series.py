"""Invented series of metrics."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from harness.history.series import COLUMNS
from harness.matrix.metrics import METRICS

SPREAD = 0.05  # of the samples of one run


def commit(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number:032x}"


def series(
    metric: str,
    lines: Mapping[str, Sequence[float | str | None]],
    *,
    machine: str = "here",
    fingerprint: str = "f00d",
    samples: bool = False,
) -> pd.DataFrame:
    """Return values of estimators, commit by commit: None is unmeasured, text an outcome."""
    noisy = metric not in METRICS or METRICS[metric].noisy
    rows = []
    for estimator, values in lines.items():
        for number, value in enumerate(values):
            if value is None:
                continue
            failed = isinstance(value, str)
            level = np.nan if isinstance(value, str) else value
            factors = np.linspace(1 - SPREAD, 1 + SPREAD, 7) if noisy else np.ones(1)
            rows.append(
                {
                    **{"machine": machine, "fingerprint": fingerprint, "cell": f"cell/{estimator}"},
                    **{"metric": "" if failed else metric, "estimator": estimator},
                    **{"task": "sinusoid", "model": "mlp-40-40", "depth": 5, "step_size": 0.01},
                    **{"device": "cpu", "dtype": "float32", "seed": 0, "tasks": 8, "trained": 0},
                    **{"commit": commit(number), "changes": "", "position": number},
                    **{"number": number, "date": pd.Timestamp("2026-01-01", tz="UTC")},
                    **{"subject": f"subject {number}", "run": "run", "environment": ""},
                    **{"started": "2026-01-01T00:00:00+00:00", "reason": ""},
                    **{"outcome": value if failed else "ok", "value": level},
                    "low": level * (1 - SPREAD / 2) if noisy else np.nan,
                    "high": level * (1 + SPREAD / 2) if noisy else np.nan,
                    **{"count": len(factors), "unit": "s"},
                    "samples": (level * factors).tolist() if samples and not failed else None,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"number": "Int64", "depth": "Int64"})


def noise(seed: int, count: int, spread: float = 0.05, drift: float = 0.0) -> list[float]:
    """Return values around 1 of runs of the same code; DRIFT is their correlation."""
    values = np.random.default_rng(seed).standard_normal(count)
    for number in range(1, count):
        values[number] = drift * values[number - 1] + math.sqrt(1 - drift**2) * values[number]
    return [float(value) for value in np.exp(spread * values)]
