"""Date, subject and order of the commits that results belong to."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from harness.support.git import git_text

COLUMNS = ("commit", "date", "subject", "number", "position")

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def commits_of(long: pd.DataFrame, kernels: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return the table of `commits` for those of runs and kernel times."""
    both = pd.concat([table[["commit", "started"]] for table in (long, kernels)])
    started = both[both["commit"] != ""].groupby("commit")["started"].min()
    dated = kernels[["commit", "date"]].drop_duplicates("commit")
    return commits(
        {str(commit): start for commit, start in started.items()},
        folder,
        dict(zip(dated["commit"], dated["date"], strict=True)),
    )


def commits(
    started: Mapping[str, str], folder: Path, dates: Mapping[str, pd.Timestamp]
) -> pd.DataFrame:
    """Order commits as in git's history, parents first.

    Commits that git does not know in the folder (or all of them without git or a repository) are
    inserted by the given date, else by the start of their first run.

    Returns:
        A row for each commit, oldest first: "commit"; "date", NaT where it is not known;
        "subject", "" where git does not know the commit; "number" among all commits of git's
        history, measured or not, else missing; "position" in this table.
    """
    table = pd.DataFrame({"commit": pd.Series(list(started), dtype=str)})
    table = table.merge(_git_log(started, folder), on="commit", how="left")
    table["subject"] = table["subject"].fillna("")
    table["date"] = table["date"].fillna(_times(table["commit"].map(dict(dates))))
    table = table.sort_values(["number", "commit"], ignore_index=True)
    # Clocks go wrong and commits are rebased: git's order goes before the dates.
    when = table["date"].where(table["number"].isna(), table["date"].cummax())
    table["when"] = when.fillna(_times(table["commit"].map(dict(started))))
    table = table.sort_values(["when", "number", "commit"], ignore_index=True)
    table["position"] = range(len(table))
    return table[list(COLUMNS)]


def on_other_branches(commits: "pd.Series[str]", folder: Path) -> set[str]:
    """Return the commits that are in the repository, but not in the history of its HEAD."""
    every = commits.unique().tolist()
    known = {line.split("\0")[0] for line in _git(dict.fromkeys(every, ""), folder).split("\n")}
    here = git_text("-C", str(folder), "rev-list", "HEAD")
    return set(every) & known - set(here.split()) if here else set()


def _git_log(started: Mapping[str, str], folder: Path) -> pd.DataFrame:
    """Return number, date and subject of commits and all their ancestors."""
    rows = [line.split("\0", 2) for line in reversed(_git(started, folder).split("\n")) if line]
    log = pd.DataFrame(rows, columns=["commit", "seconds", "subject"], dtype=str)
    dates = pd.to_datetime(pd.to_numeric(log["seconds"]), unit="s", utc=True)
    numbers = pd.Series(range(len(log)), dtype="Int64")
    return log.assign(date=dates.astype("datetime64[ms, UTC]"), number=numbers).drop(
        columns="seconds"
    )


def _git(started: Mapping[str, str], folder: Path) -> str:
    # Text of a journal reaches git only if it is a hash: never an option or a name.
    hashes = [commit for commit in started if _HASH.fullmatch(commit)]
    command = ["git", "-C", str(folder), "-c", "log.showSignature=false", "log", "--date-order"]
    command += ["--ignore-missing", "--format=%H%x00%ct%x00%s", "--stdin"]
    try:
        done = subprocess.run(
            command, input="\n".join(hashes).encode(), capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.decode(errors="replace")


def _times(texts: "pd.Series[str]") -> "pd.Series[pd.Timestamp]":
    times = pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce")
    return times.astype("datetime64[ms, UTC]")
