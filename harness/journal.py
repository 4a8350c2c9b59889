"""The journal of a run: JSON lines, one event each, on disk before the next piece of work."""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.outcome import Outcome
from harness.probes.bias import Samples

SCHEMA = 1


@dataclass(frozen=True)
class Progress:
    """What the runner tells while it works.

    Attributes:
        done: seconds of work done, as estimated beforehand.
        total: seconds of work in all, likewise.
        doing: what ended last.
    """

    done: float
    total: float
    doing: str


class Journal:
    """Appends the events of one run to a file of its own.

    Args:
        store: the folder of results; made if missing.

    Attributes:
        path: the file.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, store: Path) -> None:
        folder = store / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}.jsonl"
        self.path = folder / name
        self._file = self.path.open("x", encoding="utf-8")

    def start(self, environment: dict[str, Any], cells: int) -> None:
        """Writes what the run is made with."""
        self._write("start", schema=SCHEMA, environment=environment, cells=cells)

    def result(
        self, cell: Cell, stage: str, outcome: Outcome, samples: Samples | None = None
    ) -> None:
        """Writes how one stage of a cell ended.

        Args:
            cell: the cell.
            stage: "score" (all but time) or "time".
            outcome: how it ended.
            samples: by metric.
        """
        self._write(
            "result",
            id=cell.id,
            cell=cell.as_dict(),
            stage=stage,
            status=outcome.status,
            reason=outcome.reason,
            traceback=outcome.traceback,
            samples=samples or {},
        )

    def progress(self, progress: Progress) -> None:
        """Writes how far the run is."""
        self._write("progress", **asdict(progress))

    def end(self) -> None:
        """Writes that the run is whole, and closes the file."""
        self._write("end")
        self._file.close()

    def _write(self, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(json.dumps({"event": event, "at": now, **fields}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
