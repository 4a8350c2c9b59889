"""Runs as a store holds them, and whether it was left as it is."""

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Outcome, Status
from harness.store.journal import SCHEMA, Journal, Progress, Result

ENVIRONMENT = {"commit": "c0ffee", "changes": "", "machine": "box", "fingerprint": "f00d"}
OK = Outcome(Status.OK)


def cell(estimator: str = "fomaml") -> Cell:
    return Cell.of(estimator=estimator, task="sinusoid", model="mlp-40-40", depth=5)


def write_run(store: Path) -> Path:
    """A run of three cells: a whole one, one that failed in timing, one that was skipped."""
    journal = Journal.create(store)
    journal.start(ENVIRONMENT, cells=3)
    skipped = Outcome(Status.SKIPPED, "order too high")
    journal.results("plan", [Result(cell("binom(order=9)"), skipped)])
    score: Samples = {"bias": [1.0, 2.0, 3.0, 6.0], "flops": [7], "of-a-later-version": [1.0, 4.0]}
    for estimator in ("maml", "fomaml"):
        journal.results("score", [Result(cell(estimator), OK, score, ["odd", "very"])])
    journal.progress(Progress(1.0, 2.0, "timing"))
    times = {"time": [4.0, 1.0, 2.0, 3.0, 10.0]}
    late = Outcome(Status.TIMEOUT, "not done after 1 s")
    timed = [Result(cell("maml"), OK, times, ["late"]), Result(cell("fomaml"), late)]
    journal.results("time", timed, seconds=3.0, limits={"seconds": 1.0})
    journal.end()
    return journal.path


def fingerprint(store: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(store.rglob("*"))
    }


START = {"event": "start", "at": "now", "schema": SCHEMA, "environment": ENVIRONMENT, "cells": 1}
AXES = cell().as_dict()
RESULT = {
    "id": "x",
    "cell": AXES,
    "status": "ok",
    "reason": "",
    "traceback": "",
    "samples": {"bias": [1.0]},
    "notes": [],
}
RESULTS = {"event": "results", "at": "now", "stage": "score", "seconds": 1.0, "limits": {}}


def results(**changed: Any) -> dict[str, Any]:
    return RESULTS | {"results": [RESULT | changed]}


def write_events(path: Path, events: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return path
