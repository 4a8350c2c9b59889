"""One value for each machine, cell, metric and commit, from runs and from asv's results."""

from pathlib import Path

import numpy as np
import pandas as pd

from harness.cell import AXES
from harness.history import KEY
from harness.history.asv_alone import asv_alone, newest
from harness.history.commits import commits_of

COLUMNS = (
    *KEY,
    *AXES,
    *("commit", "changes", "position", "number", "date", "subject", "run", "environment"),
    *("started", "outcome", "reason", "value", "low", "high", "count", "samples", "unit"),
)


def history(long: pd.DataFrame, asv: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Returns the series of committed code, commits in git's order.

    Returns:
        The table of `series`.
    """
    return series(long, asv, commits_of(long, asv, folder))


def series(
    long: pd.DataFrame, asv: pd.DataFrame, commits: pd.DataFrame, *, uncommitted: bool = False
) -> pd.DataFrame:
    """Makes one row for each machine, cell, metric and commit.

    A cell is taken as a whole from the newest run of the commit that has it. What both a run and
    asv tell is the run's, which has the samples. asv tells machines apart by name only: its
    results go to the machine of that name that has measured the commit, else to the only one of
    that name, else they stay apart, with fingerprint "". Of a benchmark with several versions the
    newest counts, as in asv, and of several environments the one that was measured last.

    Returns:
        Columns `COLUMNS`, each series in the order of commits. A cell of which nothing was
        measured has one row with metric "", which tells its "outcome". "position", "number",
        "date" and "subject" are those of the commit; "run" is the journal, or "" where
        "environment" is asv's. "count" is how many samples there were, 0 where asv has not stored
        it; "samples" are None where it has not stored them.
    """
    counts = np.array([len(one or ()) for one in long["samples"]], dtype=np.int64)
    long = long.assign(environment="", count=counts)
    clean = long["changes"] == ""
    long = long[clean | uncommitted]
    version = ["machine", "fingerprint", "commit", "changes"]
    runs = newest(long, [*version, "cell"], ["started", "run"])
    added = asv_alone(asv, runs[runs["changes"] == ""])
    columns = [name for name in COLUMNS if name not in commits or name == "commit"]
    both = pd.concat([part[columns] for part in (runs, added) if len(part)] or [runs[columns]])
    both = both.astype({axis: "Int64" for axis, facts in AXES.items() if facts.kind is int})
    table = both.merge(commits, on="commit")
    order = [*KEY, "position", "changes"]
    return table.sort_values(order, kind="stable", ignore_index=True)[list(COLUMNS)]
