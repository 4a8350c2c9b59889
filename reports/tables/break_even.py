"""Break-even: the depth at which an estimator overtakes exact MAML; calls that pay compiling."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from estimators.base.errors import OptionError
from estimators.base.registry import Spec
from harness.matrix.metrics import METRICS

EXACT = "maml"
"""The specification that times are compared with: the whole graph, nothing compiled."""

ABOUT = (
    "From its break-even depth on an estimator takes no longer than exact MAML by the unrolled "
    "graph, measured in the same rounds. Between two measured depths log time ratio is taken to be "
    "linear in log K; where a curve crosses 1 several times, the last time counts. "
    "The interval is that of the quartiles of the ratios sample by sample."
)

ABOUT_COMPILING = (
    "Compiling takes its time once, for all depths, step sizes and tasks, and is then read from "
    "disk. It pays from that many calls on: the time to compile over what a call saves, the "
    "difference of the median times with and without it, measured in the same rounds."
)

# The columns that two cells must share for their times to be compared; depth varies along a curve.
_ALIKE = ["version", "task", "model", "device", "rest", "trained"]
_CURVE = [*_ALIKE, "estimator"]


def over_exact(long: pd.DataFrame, rows: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """Divide times by those of exact MAML at the same depth: median and quartiles "over_exact".

    Only samples that one run took in the same rounds are divided by each other: from run to run
    the same estimate differs by half on a shared machine.
    """
    keys = [*_ALIKE, "depth"]
    exact = every.loc[every["estimator"] == EXACT, [*keys, "cell"]]
    # A cell's name is the same in all runs, and a newer run than the row's may have exact MAML too.
    both = rows[rows["depth"] > 0].merge(exact.rename(columns={"cell": "exact"}), on=keys)
    taken = long.loc[long["metric"] == "time", ["run", "cell", "samples"]]
    both = both.merge(taken, on=["run", "cell"])
    its = taken.rename(columns={"cell": "exact", "samples": "exact_samples"})
    both = both.merge(its, on=["run", "exact"])
    ratios = [
        np.quantile(np.array(mine) / np.array(other), [0.25, 0.5, 0.75])
        for mine, other in zip(both["samples"], both["exact_samples"], strict=True)
    ]
    names = ["over_exact_low", "over_exact", "over_exact_high"]
    both[names] = np.array(ratios, dtype=float).reshape(-1, len(names))
    return both.drop(columns=["exact", "samples", "exact_samples"])


def break_even_depth(depths: Sequence[float], ratios: Sequence[float]) -> float:
    """Return the depth from which on ratios stay at 1 or below.

    It is interpolated as `ABOUT` says; 0 where all ratios are at most 1, infinity where the last
    one is above.

    Example:
        >>> break_even_depth([5, 20], [2.0, 0.5]), break_even_depth([5], [1.5])
        (10.0, inf)
    """
    if ratios[-1] > 1:
        return math.inf
    depth = 0.0
    for (before, above), (after, below) in pairwise(zip(depths, ratios, strict=True)):
        if above > 1 >= below:
            share = math.log(above) / math.log(above / below)
            depth = round(math.exp(math.log(before) + share * math.log(after / before)), 9)
    return depth


def break_evens(compared: pd.DataFrame) -> pd.DataFrame:
    """Find the break-even depth of each estimator, with its interval and the least ratio."""
    others = compared[compared["estimator"] != EXACT].sort_values("depth", kind="stable")
    rows = []
    for keys, curve in others.groupby(_CURVE, sort=False):
        place = int(np.argmin(curve["over_exact"]))
        facts = {name: curve[name].iloc[place] for name in ("family", "order")}
        facts |= {"depths": len(curve), "least": curve["over_exact"].iloc[place]}
        facts |= {"least_depth": curve["depth"].iloc[place]}
        for end in ("", "_low", "_high"):
            facts[f"from_depth{end}"] = break_even_depth(
                [*curve["depth"]], [*curve[f"over_exact{end}"]]
            )
        rows.append(dict(zip(_CURVE, keys, strict=True)) | facts)
    measured = ["depths", "least", "least_depth"]
    depths = ["from_depth", "from_depth_low", "from_depth_high"]
    table = pd.DataFrame(rows, columns=[*_CURVE, "family", "order", *measured, *depths])
    table = table.astype(dict.fromkeys(("least", *depths), float))  # where there is none, too
    return table.sort_values(["model", "from_depth", "least"], kind="stable", ignore_index=True)


def break_even_table(break_evens: pd.DataFrame) -> pd.DataFrame:
    """Return break-even depths under the names to read."""
    ends = zip(break_evens["from_depth_low"], break_evens["from_depth_high"], strict=True)
    return pd.DataFrame(
        {
            "model": break_evens["model"],
            "estimator": break_evens["estimator"],
            "break-even depth": [_depth_text(depth) for depth in break_evens["from_depth"]],
            "interval": [" to ".join(dict.fromkeys(map(_depth_text, pair))) for pair in ends],
            "least time / maml": break_evens["least"],
            "at K": break_evens["least_depth"],
            "depths measured": break_evens["depths"],
        }
    )


def _depth_text(depth: float) -> str:
    return {0.0: "all measured", math.inf: "none"}.get(depth, f"K={depth:.3g}")


def compiling_pays(long: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return from how many calls on compiling pays, for each compiled row and under names to read.

    Only times that one run took are compared.
    """
    keys = [*_ALIKE, "depth", "eager"]
    compiled = rows.assign(eager=rows["estimator"].map(_eager))
    compiled = compiled[compiled["eager"].notna() & compiled["compile_time"].notna()]
    its = rows[[*keys[:-1], "estimator", "cell"]]
    both = compiled.merge(its.rename(columns={"estimator": "eager", "cell": "eager_cell"}), on=keys)
    times = long.loc[long["metric"] == "time", ["run", "cell", "value"]]
    both = both.merge(times, on=["run", "cell"])
    eager = times.rename(columns={"cell": "eager_cell", "value": "eager_value"})
    both = both.merge(eager, on=["run", "eager_cell"])
    both = both.sort_values(["model", "eager", "depth"], kind="stable", ignore_index=True)
    seconds, compiling = METRICS["time"], METRICS["compile_time"]
    calls = both["compile_time"] * compiling.scale / (both["eager_value"] - both["value"])
    return pd.DataFrame(
        {
            "model": both["model"],
            "estimator": both["eager"],
            "K": both["depth"],
            seconds.title: both["eager_value"] / seconds.scale,
            "compiled": both["value"] / seconds.scale,
            compiling.title: both["compile_time"],
            "pays from": [
                f"{math.ceil(n):,} calls" if 0 <= n < math.inf else "never" for n in calls
            ],
        }
    )


def _eager(estimator: str) -> str | None:
    """Return a compiled estimator without the option; None of any other."""
    try:
        spec = Spec.parse(estimator)
    except OptionError:
        return None
    others = {name: value for name, value in spec.options.items() if name != "compiled"}
    return str(Spec(spec.name, others)) if spec.options.get("compiled") is True else None
