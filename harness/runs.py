"""Reads the journal of one run back: what it was made with, and each cell as a whole."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.journal import SCHEMA, Progress
from harness.outcome import Status


@dataclass
class CellResult:
    """Everything that a run found out about one cell.

    Attributes:
        id: the cell's name.
        axes: its parts, by name.
        status: how it ended; the first bad end of its stages.
        reason: one line, empty when all went well.
        samples: by metric.
    """

    id: str
    axes: dict[str, Any]
    status: Status = Status.OK
    reason: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of its journal, without the suffix.
        started: ISO 8601 time, UTC.
        environment: see `harness.environment.environment`.
        cells: in the order in which they ended.
        faults: lines that could not be read, one sentence each.
    """

    name: str
    started: str
    environment: dict[str, Any]
    cells: list[CellResult]
    faults: list[str]


def read_run(path: Path) -> Run:
    """Reads a journal; a torn last line, left by a run that was killed, does not count.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not the journal of a run, or of another schema.
        OSError: it cannot be read.
    """
    events, faults = _events(path)
    start = events[0] if events else {}
    if start.get("event") != "start":
        raise ValueError("the first line is not the start of a run")
    if start.get("schema") != SCHEMA:
        raise ValueError(f"it has schema {start.get('schema')}, this version reads {SCHEMA}")
    cells: dict[str, CellResult] = {}
    try:
        for event in events:
            if event["event"] == "result":
                cell = cells.setdefault(event["id"], CellResult(event["id"], event["cell"]))
                cell.samples |= event["samples"]
                if cell.status is Status.OK:
                    cell.status, cell.reason = Status(event["status"]), event["reason"]
        return Run(path.stem, start["at"], start["environment"], list(cells.values()), faults)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an event lacks what it should have ({error})") from None


def last_progress(path: Path) -> Progress | None:
    """Returns how far the run is that writes a journal; None when it has only begun.

    Args:
        path: the journal.
    """
    for event in reversed(_events(path)[0]):
        if event["event"] == "progress":
            return Progress(event["done"], event["total"], event["doing"])
    return None


def _events(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    events: list[dict[str, Any]] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            event = None
        if isinstance(event, dict):
            events.append(event)
        else:
            faults.append(f"line {number} is not a JSON object")
    return events, faults
