"""How good meta-training with an estimator gets: along the way, at the end, and beside exact MAML.

A number is the mean over seeds of the mean over tasks. Its 95 % interval is Student's over the
means of the seeds, since tasks of one seed share their training; of a single seed it is 1.96
standard errors over the tasks, and says nothing of what another seed would have given.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from harness.matrix.metrics import METRICS, metric_of
from reports.tables.cells import family_and_order

SETTING = ("task", "model", "depth", "step_size", "device", "dtype", "outer")
"""What trainings must have in common to be compared."""

EXACT = "maml"
JUDGED = ("accuracy", "outer_loss")
"""Metrics by which trainings are judged."""

_ESTIMATOR = [*SETTING, "estimator"]
_NAMES = (*_ESTIMATOR, "family", "order", "commit_label", "metric")

_Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Mean(NamedTuple):
    """A mean and its interval over "seeds" or "tasks"; over "" where there is no interval."""

    value: float
    low: float
    high: float
    over: str
    seeds: int
    tasks: int


def matching(rows: pd.DataFrame, here: pd.DataFrame, families: list[str]) -> pd.DataFrame:
    """Return the trainings on the task, model, depth and device of some cells."""
    if here.empty:
        return rows.head(0)
    for axis in ("task", "model", "depth", "device"):
        rows = rows[rows[axis] == here[axis].iloc[0]]
    chosen = [
        not families or name == EXACT or family_and_order(name)[0] in families
        for name in rows["estimator"]
    ]
    return rows[np.array(chosen, dtype=bool)]


def settings(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Split a table into parts that may stand in one figure."""
    return [part for _, part in rows.groupby(list(SETTING), sort=False)]


def setting_text(rows: pd.DataFrame) -> tuple[str, str]:
    """Return the name of a setting, and how it was trained."""
    first = rows.iloc[0]
    outer = first["outer"].replace("_", " ").replace("=", " ")
    return "{task}, {model}, K={depth}, {device}".format(**first), outer


def curves(rows: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Return how a metric goes along meta-training.

    Of trainings that are alike but for their start the newest that was tested counts, or else the
    one that got furthest. Commits and machines may differ from seed to seed. There is a row for
    each setting, estimator and step, in shown units; "tasks" are those of the seed with fewest.
    """
    seeds = _of_seeds(rows, metric, split)
    records = [
        {**_named(key, part), "split": split, **mean_of_seeds([*part["samples"]])._asdict()}
        for key, part in seeds.groupby([*_ESTIMATOR, "step"], sort=False)
    ]
    table = pd.DataFrame(records, columns=[*_NAMES, "split", "step", *Mean._fields])
    return _sorted(table, [*SETTING, "family", "order", "estimator", "step"])


def test_results(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return each estimator's result on the tasks of its last test, best first in each setting."""
    seeds = _last(_of_seeds(rows, metric, "test"))
    records = [
        {**_named(key, part), **mean_of_seeds([*part["samples"]])._asdict()}
        for key, part in seeds.groupby(_ESTIMATOR, sort=False)
    ]
    return _best_first(pd.DataFrame(records, columns=[*_NAMES, *Mean._fields]), metric)


test_results.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def differences(rows: pd.DataFrame, metric: str, beside: str = EXACT) -> pd.DataFrame:
    """Return how far each estimator is from one of them on the same tasks of the same seeds.

    Pairs are places in the lists of samples, of seeds that both have. What all estimators find
    easy or hard in a task or a seed falls out, so the intervals are narrower than those of
    `test_results`. They are not widened for how many estimators are compared. The columns are those
    of `test_results`, of the value less that of the one, and "verdict", a word or two.
    """
    seeds = _last(_of_seeds(rows, metric, "test"))
    records = []
    for _, setting in seeds.groupby(list(SETTING), sort=False):
        its = setting[setting["estimator"] == beside]
        exact = dict(zip(its["seed"], its["samples"], strict=True))
        others = setting[setting["estimator"] != beside]
        for key, part in others.groupby(_ESTIMATOR, sort=False):
            pairs = [
                _paired(samples, exact[seed])
                for seed, samples in zip(part["seed"], part["samples"], strict=True)
                if seed in exact
            ]
            records.append({**_named(key, part), **mean_of_seeds(pairs)._asdict()})
    table = pd.DataFrame(records, columns=[*_NAMES, *Mean._fields])
    table = table.round(dict.fromkeys(("value", "low", "high"), 9))  # what cancels leaves rests
    table = _best_first(table, metric)
    return table.assign(verdict=[_verdict(row, metric) for row in table.itertuples()])


def difference_title(metric: str) -> str:
    """Return the name of a difference to exact MAML, with its unit."""
    entry = metric_of(metric)
    unit = "points" if entry.shown_unit == "%" else entry.shown_unit
    return f"{entry.label} less that of {EXACT}" + (f" ({unit})" if unit else "")


def differences_table(differences: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return differences under the names to read."""
    names = {"value": difference_title(metric), "low": "from", "high": "to"}
    return differences[["estimator", *names, "seeds", "verdict"]].rename(columns=names)


def _of_seeds(rows: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Return the rows of one training for each seed, with samples in the unit that is shown."""
    # What was tested has come to its end, after however many steps.
    tested = rows["training"].isin(rows.loc[rows["split"] == "test", "training"])
    reached = rows.groupby("training")["step"].transform("max").where(~tested, np.inf)
    part = rows[(rows["metric"] == metric) & (rows["split"] == split)]
    ranked = part.assign(reached=reached).sort_values(["reached", "started", "training"])
    chosen = ranked.drop_duplicates([*_ESTIMATOR, "seed"], keep="last")["training"]
    part = part[part["training"].isin(chosen)]
    size = metric_of(metric).scale
    samples = [np.asarray(one, dtype=float) / size for one in part["samples"]]
    return part.assign(samples=pd.Series(samples, index=part.index, dtype=object))


def _last(seeds: pd.DataFrame) -> pd.DataFrame:
    last: pd.DataFrame = seeds[seeds["step"] == seeds.groupby("training")["step"].transform("max")]
    return last


def mean_of_seeds(seeds: Sequence[_Numbers]) -> Mean:
    """Sum up the samples of each seed as the module says."""
    if not seeds:
        return Mean(math.nan, math.nan, math.nan, "", 0, 0)
    tasks = min(len(one) for one in seeds)
    with np.errstate(invalid="ignore"):  # infinities of what has diverged
        means = np.array([one.mean() for one in seeds])
        mean, half, over = float(means.mean()), math.nan, ""
        if len(means) > 1:
            error = means.std(ddof=1) / math.sqrt(len(means))
            half, over = float(stdtrit(len(means) - 1, 0.975) * error), "seeds"
        elif tasks > 1:
            half, over = float(1.96 * seeds[0].std(ddof=1) / math.sqrt(tasks)), "tasks"
    return Mean(mean, mean - half, mean + half, over, len(means), tasks)


def _paired(samples: _Numbers, exact: _Numbers) -> _Numbers:
    both = min(len(samples), len(exact))
    with np.errstate(invalid="ignore"):
        return samples[:both] - exact[:both]


def _named(key: Any, part: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that name a row."""
    named = dict(zip([*_ESTIMATOR, "step"], key, strict=False))
    family, order = family_and_order(named["estimator"])
    commits = [commit[:8] or "unknown commit" for commit in part["commit"].unique()]
    metric = part["metric"].iloc[0]
    more = {"family": family, "order": order, "commit_label": ", ".join(commits)}
    return named | more | {"metric": metric}


def _better(metric: str) -> str:
    return METRICS[metric].better if metric in METRICS else "neither"


def _best_first(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    sign = -1 if _better(metric) == "higher" else 1
    return _sorted(table.assign(rank=sign * table["value"]), [*SETTING, "rank"]).drop(
        columns="rank"
    )


def _sorted(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    table = table.assign(order=table["order"].astype("Int64"))
    return table.sort_values(columns, kind="stable", ignore_index=True)


def _verdict(mean: Any, metric: str) -> str:
    if not mean.seeds:
        return "no pair"
    if not math.isfinite(mean.value):
        return "not finite"
    if not mean.over:
        return "one pair"
    if mean.low <= 0 <= mean.high:
        return "not shown"
    better = _better(metric)
    if better == "neither":
        return "different"
    return "better" if (mean.value > 0) == (better == "higher") else "worse"
