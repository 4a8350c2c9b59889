"""Find the commits at which a metric changed its level."""

from itertools import pairwise

import numpy as np
import pandas as pd

from harness.cell import AXES
from harness.history import KEY
from harness.history.change_points import Step, exact_steps, noisy_steps
from harness.history.differences import differ, noisy, ratios, verdicts

COLUMNS = (
    *KEY,
    *AXES,
    *("unit", "commit", "date", "subject", "position", "previous", "unmeasured", "before"),
    *("after", "ratio", "verdict", "lasting", "noise", "p"),
)


def changes(series: pd.DataFrame) -> pd.DataFrame:
    """Find the commits at which a metric changed its level, for better or worse.

    A repeatable metric has changed wherever two neighbouring values differ (see `differ`). Levels
    of the others are those of asv's step detection; as there, values with a narrow interval weigh
    more. A step is reported if it is larger than the noise and than 5 % and has two or more commits
    on either side. asv treats a single step in a short history as a drift; so where it finds none,
    a step of four times the noise is reported. A step at the newest commit is reported once a
    second commit has it; `compare` compares two commits.

    Returns:
        A row for each change, newest commit first, the largest first within it. "commit" is the
        first that was measured with the new level, "previous" the last with the old one, and
        "unmeasured" the number of commits between them: the change may be in one of those as well.
        "before" and "after" are the levels, for a noisy metric medians; "ratio" is after / before.
        "verdict" is "better", "worse" or, for a metric of which neither way is better, "other".
        "lasting" is whether asv's regression detection reports the step, that is, whether it has
        not been undone since. "noise" is the step in units of the noise, which is the largest of
        the mean absolute deviations from the two levels and half the median interval within a run.
        "p" is that of a Mann-Whitney test between the values of the commits before and after: not
        between samples, since those of one run are not independent. Both are NaN for a repeatable
        metric.
    """
    rows = series[(series["changes"] == "") & series["value"].notna()]
    rows = rows.sort_values([*KEY, "position"], kind="stable", ignore_index=True)
    number = rows.groupby(list(KEY), sort=False).ngroup().to_numpy()
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    values, low, high = (rows[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
    is_noisy = noisy(rows["metric"])
    moves = differ(rows["metric"], np.roll(values, 1), values)
    moves[starts] = False
    steps: list[Step] = []
    offsets: list[int] = []
    for start, end in pairwise([*starts.tolist(), len(rows)]):
        part = slice(start, end)
        if is_noisy[start]:
            more = noisy_steps(values[part], low[part], high[part])
        else:
            more = exact_steps(values[part], moves[part]) if moves[part].any() else []
        steps += more
        offsets += [start] * len(more)
    return _table(rows, steps, np.array(offsets, dtype=np.intp))


def _table(rows: pd.DataFrame, steps: list[Step], offsets: np.ndarray) -> pd.DataFrame:
    first = rows.iloc[offsets + [step.after.left for step in steps]].reset_index(drop=True)
    last = rows.iloc[offsets + [step.before.right - 1 for step in steps]].reset_index(drop=True)
    before = np.array([step.before.value for step in steps])
    after = np.array([step.after.value for step in steps])
    between = (first["number"] - last["number"]).fillna(first["position"] - last["position"])
    table = first.assign(
        previous=last["commit"],
        unmeasured=between.astype("int64") - 1,
        before=before,
        after=after,
        ratio=ratios(before, after),
        verdict=pd.Series(verdicts(first["metric"], before, after), dtype=str),
        lasting=np.array([step.lasting for step in steps], dtype=bool),
        noise=np.array([step.noise for step in steps], dtype=float),
        p=np.array([step.p for step in steps], dtype=float),
    )
    with np.errstate(divide="ignore"):
        table["size"] = np.abs(np.log(table["ratio"].abs()))
    order, ascending = ["position", "size", *KEY], [False, False, *[True] * len(KEY)]
    return table.sort_values(order, ascending=ascending, ignore_index=True)[list(COLUMNS)]
