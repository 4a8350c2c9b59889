"""The content of a store, and which cells of it did not end well."""

import pandas as pd


def contents(table: pd.DataFrame, long: pd.DataFrame) -> dict[str, str]:
    """Return the size and age of a store, by name; of measurements one a run, cell and metric."""
    machines = long[["machine", "fingerprint"]].drop_duplicates()
    # Older runs have no fingerprint, and are of another machine only if the name says so.
    known = machines[machines["fingerprint"] != ""]
    others = set(machines["machine"]) - set(known["machine"])
    counts = {
        "runs": long["run"].nunique(),
        "cells": table["cell"].nunique(),
        "measurements": int((long["metric"] != "").sum()),
        "commits": long.loc[long["commit"] != "", "commit"].nunique(),
        "machines": len(known) + len(others),
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


def outcomes(table: pd.DataFrame) -> dict[str, int]:
    """Return the number of cells of each outcome, commonest first."""
    return {str(name): int(count) for name, count in table["outcome"].value_counts().items()}


def failures(table: pd.DataFrame) -> pd.DataFrame:
    """Count the cells that did not end well by outcome and reason, skipped ones last."""
    bad = table[table["outcome"] != "ok"].groupby(["outcome", "reason"], sort=False, as_index=False)
    by_count = bad.agg(**{"cells": ("cell", "size"), "such as": ("cell", "first")}).sort_values(
        "cells", ascending=False, kind="stable"
    )
    skipped = by_count["outcome"] == "skipped"
    return pd.concat([by_count[~skipped], by_count[skipped]], ignore_index=True)


def versions(table: pd.DataFrame) -> pd.DataFrame:
    """Return the commits and machines of a store, newest first, with their number of cells."""
    rows = table.groupby("version", sort=False).agg(
        commit=("commit_label", "first"),
        machine=("machine_label", "first"),
        cells=("cell", "size"),
        measured=("started", "max"),
    )
    return rows.assign(measured=rows["measured"].map(_day)).reset_index(drop=True)
