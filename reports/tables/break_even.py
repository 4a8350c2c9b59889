"""From which depth on an estimator takes no longer than exact MAML."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

EXACT = "maml"
"""The specification whose times others are held against: the whole graph, nothing compiled."""

CROSSINGS = (
    "The depth from which on an estimator takes no longer than exact MAML by the unrolled graph, "
    "measured in the same rounds. Between two measured depths log time ratio "
    "is taken to be linear in log K; where a curve crosses several times, the last time counts. "
    '"By quartiles" is the same of the quartiles of the ratios sample by sample.'
)

# What two cells must share for their times to be compared; the depth goes along a curve of them.
_ALIKE = ["version", "task", "model", "device", "rest", "trained"]
_CURVE = [*_ALIKE, "estimator"]


def over_exact(long: pd.DataFrame, rows: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """Divides the times of cells by those of exact MAML at the same depth.

    Only samples that one run took in the same rounds are divided by each other: from run to run
    the same estimate differs by half on a shared machine.

    Returns:
        The rows of which both times are known, with "over_exact", the median, and its quartiles
        "over_exact_low" and "over_exact_high".
    """
    keys = [*_ALIKE, "depth"]
    exact = every.loc[every["estimator"] == EXACT, [*keys, "cell"]]
    # A cell's name is the same in all runs, and a newer run than the row's may have exact MAML too.
    found = rows[rows["depth"] > 0].merge(exact.rename(columns={"cell": "exact"}), on=keys)
    taken = long.loc[long["metric"] == "time", ["run", "cell", "samples"]]
    found = found.merge(taken, on=["run", "cell"])
    its = taken.rename(columns={"cell": "exact", "samples": "exact_samples"})
    found = found.merge(its, on=["run", "exact"])
    ratios = [
        np.quantile(np.array(mine) / np.array(other), [0.25, 0.5, 0.75])
        for mine, other in zip(found["samples"], found["exact_samples"], strict=True)
    ]
    names = ["over_exact_low", "over_exact", "over_exact_high"]
    found[names] = np.array(ratios, dtype=float).reshape(-1, len(names))
    return found.drop(columns=["exact", "samples", "exact_samples"])


def crossing(depths: Sequence[float], ratios: Sequence[float]) -> float:
    """Returns the depth from which on ratios stay at 1 or below.

    Between the last depth with a ratio above 1 and the next, the logarithm of the ratio is taken
    to be linear in that of the depth. Where a curve crosses 1 several times the last time counts.

    Returns:
        The depth: 0 where all ratios are at most 1, infinity where the last one is above.

    Example:
        >>> crossing([5, 20], [2.0, 0.5]), crossing([5, 20], [0.9, 1.0]), crossing([5], [1.5])
        (10.0, 0.0, inf)
    """
    if ratios[-1] > 1:
        return math.inf
    found = 0.0
    for (before, above), (after, below) in pairwise(zip(depths, ratios, strict=True)):
        if above > 1 >= below:
            share = math.log(above) / math.log(above / below)
            found = round(math.exp(math.log(before) + share * math.log(after / before)), 9)
    return found


def crossings(compared: pd.DataFrame) -> pd.DataFrame:
    """Finds where each estimator becomes as quick as exact MAML.

    Returns:
        A row for each estimator with its options, model, device and so on: "from_depth" as
        `crossing` returns it of the medians, "from_depth_low" and "from_depth_high" of the
        quartiles; "depths", how many were measured; "least", the least ratio, and "least_depth".
    """
    others = compared[compared["estimator"] != EXACT].sort_values("depth", kind="stable")
    found = []
    for keys, curve in others.groupby(_CURVE, sort=False):
        place = int(np.argmin(curve["over_exact"]))
        facts = {name: curve[name].iloc[place] for name in ("family", "order")}
        facts |= {"depths": len(curve), "least": curve["over_exact"].iloc[place]}
        facts |= {"least_depth": curve["depth"].iloc[place]}
        for end in ("", "_low", "_high"):
            facts[f"from_depth{end}"] = crossing([*curve["depth"]], [*curve[f"over_exact{end}"]])
        found.append(dict(zip(_CURVE, keys, strict=True)) | facts)
    measured = ["depths", "least", "least_depth"]
    depths = ["from_depth", "from_depth_low", "from_depth_high"]
    table = pd.DataFrame(found, columns=[*_CURVE, "family", "order", *measured, *depths])
    table = table.astype(dict.fromkeys(("least", *depths), float))  # where there is none, too
    return table.sort_values(["model", "from_depth", "least"], kind="stable", ignore_index=True)


def told(table: pd.DataFrame) -> pd.DataFrame:
    """Returns crossings under the names to read."""
    words = [
        _words(*row)
        for row in zip(
            *(table[name] for name in ("from_depth", "least", "least_depth")), strict=True
        )
    ]
    quartiles = [
        " to ".join(dict.fromkeys((_end(low), _end(high))))
        for low, high in zip(table["from_depth_low"], table["from_depth_high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "model": table["model"],
            "estimator": table["estimator"],
            "as quick as maml": words,
            "by quartiles": quartiles,
            "depths measured": table["depths"],
        }
    )


def _words(depth: float, least: float, at: float) -> str:
    if depth == 0:
        return "at every depth measured"
    if math.isinf(depth):
        none = "not at the deepest" if least <= 1 else "at none measured"
        return f"{none} (least ratio {least:.2f} at K={at:g})"
    return f"from K={depth:.3g} on"


def _end(depth: float) -> str:
    return {0.0: "every depth", math.inf: "none"}.get(depth, f"{depth:.3g}")
