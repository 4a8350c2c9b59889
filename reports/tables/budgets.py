"""Which estimator to take for every budget of memory."""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from harness.matrix.metrics import METRICS
from reports.tables.advice import advise
from reports.tables.reasons import memory_text


def by_memory(rows: pd.DataFrame, errors: pd.DataFrame | None = None) -> pd.DataFrame:
    """Returns what `advise` puts first as the budget of memory grows, under the names to read.

    Returns:
        A row for each budget from which on another estimator comes first, and why it does.
    """
    known = rows[(rows["outcome"] == "ok") & rows["bias"].notna()]
    first: list[dict[Hashable, Any]] = []
    for budget in sorted(known["peak_memory"].dropna().unique()):
        best = advise(rows, errors=errors, memory=budget).iloc[0]
        if not first or best["estimator"] != first[-1]["estimator"]:
            first.append(best.to_dict() | {"from": memory_text(budget)})
    titles = {name: METRICS[name].title for name in ("bias", "time_ratio")}
    columns = {"from": "memory, from", "estimator": "estimator", **titles, "why": "why"}
    return pd.DataFrame(first, columns=[*columns]).rename(columns=columns)
