"""Stores of runs, and the series made of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.cell import Cell
from harness.history.series import stored_history
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Outcome, Status
from harness.store.journal import Journal
from harness.store.table import load, long_table
from tests.support.stores import environment, journal_result

A, B, C = ("a" * 40, "b" * 40, "c" * 40)
NO_RUNS = long_table([])
SCORES: Samples = {"bias": [0.1, 0.3], "hvps": [5.0], "time": [3.0, 1.0, 2.0]}


def cell(estimator: str = "maml", **axes: Any) -> Cell:
    known: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5}
    return Cell.of(estimator=estimator, **known | axes)


def write_run(
    store: Path,
    commit: str,
    cells: Mapping[Cell, Samples | Outcome],
    *,
    at: str = "",
    name: str = "",
    **changed: Any,
) -> None:
    """Write a run, started at a given time and with a given name if there are any."""
    journal = Journal.create(store)
    journal.start(environment(commit, **{"fingerprint": "f00d"} | changed), cells=len(cells))
    for one, made in cells.items():
        outcome, samples = (Outcome(Status.OK), made) if isinstance(made, dict) else (made, None)
        journal_result(journal, "score", one, outcome, samples)
    journal.end()
    if at:
        first, rest = journal.path.read_text(encoding="utf-8").split("\n", 1)
        start = json.dumps(json.loads(first) | {"at": at})
        journal.path.write_text(f"{start}\n{rest}", encoding="utf-8")
    if name:
        journal.path.rename(journal.path.with_name(f"{name}.jsonl"))


def read(store: Path, repository: Path | None = None) -> pd.DataFrame:
    long = load(store)[0] if (store / "runs").exists() else NO_RUNS
    table, problems = stored_history(store, long, repository or store)
    assert not problems
    return table


def values(table: pd.DataFrame, metric: str) -> dict[str, float]:
    rows = table[table["metric"] == metric]
    assert not rows.duplicated(["machine", "fingerprint", "cell", "commit"]).any()
    return dict(zip(rows["commit"], rows["value"], strict=True))
