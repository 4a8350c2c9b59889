"""How samples are spread within each estimator."""

import pandas as pd


def spread(samples: pd.DataFrame) -> pd.DataFrame:
    """Sums up the samples of each estimator.

    Returns:
        A row for each estimator, the least median first: "estimator", "family", "order", "count",
        and of the samples "least", "low" (quartile), "median", "high" (quartile) and "most".
    """
    groups = samples.groupby(["estimator", "family"], sort=False)
    value = groups["value"]
    found = pd.DataFrame(
        {
            "order": groups["order"].first(),
            "count": value.count(),
            "least": value.min(),
            "low": value.quantile(0.25),
            "median": value.median(),
            "high": value.quantile(0.75),
            "most": value.max(),
        }
    )
    return found.sort_values("median", kind="stable").reset_index()
