"""One value for each machine, cell, metric and commit: runs, and kernels of pytest-benchmark."""

from pathlib import Path

import numpy as np
import pandas as pd

from harness.cell import AXES
from harness.history import KEY
from harness.history.commits import commits_of
from harness.history.kernel_times import read_kernels
from harness.store.events import Problem

COLUMNS = (
    *KEY,
    *AXES,
    *("commit", "changes", "position", "number", "date", "subject", "run"),
    *("started", "outcome", "reason", "value", "low", "high", "count", "samples", "unit"),
)


def stored_history(
    store: Path, long: pd.DataFrame, repository: Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the series of a store whose runs are read, and which other files are unreadable."""
    kernels, problems = read_kernels(store)
    return history(long, kernels, repository), problems


def history(long: pd.DataFrame, kernels: pd.DataFrame, repository: Path) -> pd.DataFrame:
    """Return the series of committed code, with commits in git's order; see `series`."""
    return series(long, kernels, commits_of(long, kernels, repository))


def series(
    long: pd.DataFrame, kernels: pd.DataFrame, commits: pd.DataFrame, *, uncommitted: bool = False
) -> pd.DataFrame:
    """Return one row for each machine, cell, metric and commit.

    A cell is taken as a whole from the newest run of the commit that has it, a kernel from the
    newest file. Kernel times carry the name of a machine only: they go to the machine of that name
    that measured the commit, else to the only one of that name, else fingerprint is "".

    Returns:
        Columns `COLUMNS`, each series in the order of commits. A cell of which nothing was
        measured has one row with metric "" and its "outcome". "position", "number", "date" and
        "subject" are those of the commit, "run" is the name of the journal or file without suffix.
        "count" is the number of samples; "samples" are None for kernels.
    """
    counts = np.array([len(one or ()) for one in long["samples"]], dtype=np.int64)
    long = long.assign(count=counts)
    long = long[(long["changes"] == "") | uncommitted]
    runs = _newest(long, ["machine", "fingerprint", "commit", "changes", "cell"])
    timed = _newest(kernels, ["machine", "commit", "cell"])
    timed = timed.assign(fingerprint=_fingerprints(timed, runs), changes="", reason="")
    columns = [name for name in COLUMNS if name not in commits or name == "commit"]
    parts = [part.reindex(columns=columns) for part in (runs, timed) if len(part)]
    both = pd.concat(parts or [runs[columns]])
    both = both.astype({axis: "Int64" for axis, facts in AXES.items() if facts.kind is int})
    table = both.merge(commits, on="commit")
    order = [*KEY, "position", "changes"]
    return table.sort_values(order, kind="stable", ignore_index=True)[list(COLUMNS)]


def _newest(table: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return all rows of the newest run or file among the rows that are equal in a key."""
    rank = table.groupby(["started", "run"]).ngroup()
    last = rank.groupby([table[name] for name in key], sort=False).transform("max")
    newest: pd.DataFrame = table[rank == last]
    return newest


def _fingerprints(kernels: pd.DataFrame, runs: pd.DataFrame) -> "pd.Series[str]":
    """Return the fingerprint of each row's machine, "" where its name is ambiguous."""
    prints = pd.Series("", index=kernels.index, dtype=str)
    for key in (["machine"], ["machine", "commit"]):
        unique = runs[[*key, "fingerprint"]].drop_duplicates().drop_duplicates(key, keep=False)
        known = kernels[key].merge(unique, on=key, how="left")["fingerprint"]
        prints = known.set_axis(kernels.index).fillna(prints)
    return prints
