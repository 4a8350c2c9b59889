"""The content of a store, and which cells of it did not end well."""

from pathlib import Path

import pandas as pd

from harness.store.table import load
from reports.tables.cells import cells
from reports.tables.overview import contents, failures, outcomes, versions
from tests.support.stores import MARKUP, write_store

LONG = ["run", "started", "commit", "machine", "fingerprint", "cell", "metric"]
TABLE = ["cell", "outcome", "reason", "version_label"]


def test_what_a_store_holds(tmp_path: Path) -> None:
    long, _ = load(write_store(tmp_path))
    table = cells(long)
    held = contents(table, long)
    names = set(table["cell"])
    assert held == {
        "runs": "2",
        "cells": str(len(names)),
        "measurements": str((long["metric"] != "").sum()),
        "commits": "2",
        "machines": "1",
        "oldest run": held["oldest run"],
        "newest run": held["newest run"],
    }
    # Two settings at two depths with nine estimators, and two cells that went wrong.
    assert len(names) == 2 * 2 * 9 + 2
    assert held["oldest run"] <= held["newest run"]
    found = failures(table)
    assert found["cells"].sum() == (table["outcome"] != "ok").sum()
    assert set(found["reason"][found["outcome"] != "skipped"]) == {MARKUP, "not done after 1 s"}
    assert set(found["such as"]) <= names
    listed = versions(table)
    assert [*listed["commit"]] == ["b" * 8 + " (uncommitted changes)", "a" * 8]
    assert set(listed["machine"]) == {"here"}
    assert listed["cells"].sum() == len(table)
    assert listed["measured"].str.endswith(" UTC").all()


def test_what_an_empty_store_holds() -> None:
    empty = contents(pd.DataFrame(columns=TABLE), pd.DataFrame(columns=LONG))
    assert empty == dict.fromkeys(["runs", "cells", "measurements", "commits", "machines"], "0")


def test_machines_differ_by_name_and_fingerprint() -> None:
    for machines, count in (
        ([("a", ""), ("a", "f1")], "1"),
        ([("a", "f1"), ("a", "f2"), ("a", "")], "2"),
        ([("a", "f1"), ("b", "f1")], "2"),
        ([("a", ""), ("b", ""), ("b", "")], "2"),
    ):
        rows = [
            (f"run{day}", f"2026-01-0{day}T10:20:30.123+00:00", "", name, digest, "c", "bias")
            for day, (name, digest) in enumerate(machines, 1)
        ]
        held = contents(pd.DataFrame(columns=TABLE), pd.DataFrame(rows, columns=LONG))
        assert (held["machines"], held["commits"]) == (count, "0"), machines
        assert held["oldest run"] == "2026-01-01 10:20 UTC"
        assert held["newest run"] == f"2026-01-0{len(machines)} 10:20 UTC"


ROWS = pd.DataFrame(
    [
        *[("s1", "skipped", "no device", "v")] * 3,
        *[("o1", "ok", "", "v"), ("f1", "failed", "broken", "v2"), ("f2", "failed", "torn", "v")],
        *[("f3", "failed", "torn", "v"), ("d1", "diverged", "broken", "v")],
    ],
    columns=TABLE,
)


def test_bad_ends_are_grouped_by_outcome_and_reason() -> None:
    assert outcomes(ROWS) == {"skipped": 3, "failed": 3, "ok": 1, "diverged": 1}
    assert failures(ROWS).to_dict("records") == [
        {"outcome": o, "reason": r, "cells": n, "such as": e}
        for o, r, n, e in (
            ("failed", "torn", 2, "f2"),
            ("failed", "broken", 1, "f1"),
            ("diverged", "broken", 1, "d1"),
            ("skipped", "no device", 3, "s1"),
        )
    ]
    for rows in (ROWS.head(0), ROWS[ROWS["outcome"] == "ok"]):
        assert failures(rows).empty
