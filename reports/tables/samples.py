"""The samples behind the numbers of cells."""

import numpy as np
import pandas as pd

from harness.matrix.metrics import METRICS


def samples(long: pd.DataFrame, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Returns all samples of a metric, a row each: of a task, or of a repetition.

    Returns:
        The columns of the rows that name their cell, with "sample" (counted from 0: the same
        number is the same task in all cells of a group) and "value", in the unit that is shown.
    """
    kept = [*("run", "cell", "task", "model", "depth", "estimator", "family", "order")]
    kept += ["trained", "seed", "rest", "machine", "commit_label"]
    found = rows[kept].merge(
        long.loc[long["metric"] == metric, ["run", "cell", "samples"]], on=["run", "cell"]
    )
    numbers = pd.Series([np.arange(len(one)) for one in found["samples"]], dtype=object)
    found = found.assign(sample=numbers)
    found = found.explode(["sample", "samples"], ignore_index=True)
    value = found.pop("samples").astype(float) / METRICS[metric].scale
    return found.assign(sample=found["sample"].astype(int), value=value)
