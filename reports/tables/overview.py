"""What a store holds, and what in it did not end well."""

import pandas as pd


def contents(table: pd.DataFrame, long: pd.DataFrame) -> dict[str, str]:
    """Tells what a store holds.

    Returns:
        By name: "runs", "cells" (different ones, by name), "measurements" (one a run, cell and
        metric), "commits" (known ones), "machines", and, unless it is empty, when the "oldest run"
        and the "newest run" began.
    """
    machines = long[["machine", "fingerprint"]].drop_duplicates()
    # Older runs have no fingerprint, and are of another machine only if the name says so.
    told = machines[machines["fingerprint"] != ""]
    untold = set(machines["machine"]) - set(told["machine"])
    counts = {
        "runs": long["run"].nunique(),
        "cells": table["cell"].nunique(),
        "measurements": int((long["metric"] != "").sum()),
        "commits": long.loc[long["commit"] != "", "commit"].nunique(),
        "machines": len(told) + len(untold),
    }
    texts = {name: f"{count:,}" for name, count in counts.items()}
    if long.empty:
        return texts
    return texts | {
        "oldest run": _day(long["started"].min()),
        "newest run": _day(long["started"].max()),
    }


def _day(started: str) -> str:
    return started[:16].replace("T", " ") + " UTC"


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """Counts how cells ended.

    Returns:
        A row for each "outcome", with how many "cells"; commonest first.
    """
    return table["outcome"].value_counts().rename("cells").reset_index()


def failures(table: pd.DataFrame) -> pd.DataFrame:
    """Groups the cells that did not end well.

    Returns:
        A row for each "outcome" and "reason", with how many "cells", and of the newest of them the
        name ("example") and what it was measured with ("version_label"); commonest first, skipped
        ones last.
    """
    bad = table[table["outcome"] != "ok"]
    found = bad.groupby(["outcome", "reason"], sort=False, as_index=False).agg(
        cells=("cell", "size"), example=("cell", "first"), version_label=("version_label", "first")
    )
    by_count = found.sort_values("cells", ascending=False, kind="stable")
    skipped = by_count["outcome"] == "skipped"
    return pd.concat([by_count[~skipped], by_count[skipped]], ignore_index=True)


def versions(table: pd.DataFrame) -> pd.DataFrame:
    """Lists what was measured where.

    Returns:
        A row for each commit and machine, newest first, with how many "cells" and when the
        newest run of them began.
    """
    found = table.groupby("version", sort=False).agg(
        commit=("commit_label", "first"),
        machine=("machine_label", "first"),
        cells=("cell", "size"),
        measured=("started", "max"),
    )
    return found.assign(measured=found["measured"].map(_day)).reset_index(drop=True)
