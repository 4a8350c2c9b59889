"""Journals: JSON lines, one event each, on disk before the next piece of work; that of a run."""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.matrix.metrics import Samples
from harness.matrix.outcome import Outcome

if TYPE_CHECKING:
    from harness.cell import Cell

SCHEMA = 2
"""Version of what is written; 1, with an event for each result, can be read too."""


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


@dataclass(frozen=True)
class Result:
    """How one stage of a cell ended.

    Attributes:
        cell: the cell.
        outcome: how it ended.
        samples: by metric.
        notes: what a reader of the samples should know, a sentence each.
    """

    cell: "Cell"
    outcome: Outcome
    samples: Samples = field(default_factory=dict)
    notes: Sequence[str] = ()


class EventFile:
    """Appends events to a file, which it holds locked.

    Attributes:
        path: the file.

    Raises:
        BlockingIOError: another process writes to it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        self.path = path
        flags = os.O_CREAT | os.O_EXCL if new else 0
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise
        if new:
            _sync_folder(path.parent)  # or a power cut could take the file's name

    @classmethod
    def create_in(cls, folder: Path) -> Self:
        """Starts a file with a name of its own, made of the time.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}.jsonl"
        return cls(folder / name, new=True)

    def set_aside(self, is_sound: Callable[[bytes], bool]) -> Path | None:
        """Moves broken lines, and what follows the last whole one, to a file beside.

        A process that was killed leaves the latter, a failing disk the former.

        Returns:
            That file, NAME.torn; None when there is nothing to move.
        """
        *lines, torn = self.path.read_bytes().split(b"\n")
        broken = [line for line in lines if not is_sound(line)] + ([torn] if torn else [])
        if not broken:
            return None
        beside = self.path.with_suffix(".torn")
        with beside.open("ab") as file:
            file.writelines(line + b"\n" for line in broken)
            file.flush()
            os.fsync(file.fileno())
        kept = b"".join(line + b"\n" for line in lines if is_sound(line))
        draft = self.path.with_suffix(".draft")
        draft.write_bytes(kept)
        mended = EventFile(draft, new=False)  # and locked before it has the name
        os.fsync(mended._file)
        draft.replace(self.path)
        _sync_folder(self.path.parent)
        os.close(self._file)
        self._file = mended._file
        return beside

    def resume(self, environment: dict[str, Any], **more: Any) -> None:
        """Writes that the work goes on."""
        self._write("resume", environment=environment, **more)

    def end(self) -> None:
        """Writes that nothing is to follow, and closes the file."""
        self._write("end")
        self.close()

    def close(self) -> None:
        """Leaves the file to others."""
        os.close(self._file)

    def _write(self, event: str, *, sync: bool = True, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "at": now, **fields}).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            if sync:
                os.fsync(self._file)
        except OSError:  # a full disk, which may have taken part of the line
            with suppress(OSError):
                os.ftruncate(self._file, end)
            raise


class Journal(EventFile):
    """The journal of one run; see `EventFile`."""

    def __init__(self, path: Path, *, new: bool) -> None:
        super().__init__(path, new=new)
        self._machines: set[str] = set()  # whose environments are in it

    @classmethod
    def create(cls, store: Path) -> Self:
        """Starts the journal of a new run.

        Raises:
            OSError: the folder cannot be written.
        """
        return cls.create_in(store / "runs")

    def start(self, environment: dict[str, Any], cells: int, **more: Any) -> None:
        """Writes what the run is made with."""
        self._write("start", schema=SCHEMA, environment=environment, cells=cells, **more)

    def results(
        self,
        stage: str,
        results: Sequence[Result],
        *,
        seconds: float = 0.0,
        limits: dict[str, float] | None = None,
        machine: dict[str, Any] | None = None,
    ) -> None:
        """Writes how one stage of some cells ended, all of them or none."""
        name = f"{machine['fingerprint']}-{machine['state']}" if machine else ""
        if name and name not in self._machines:
            self._write("machine", sync=False, name=name, environment=machine)
            self._machines.add(name)
        written = [
            {
                "id": result.cell.id,
                "cell": result.cell.as_dict(),
                "status": result.outcome.status,
                "reason": result.outcome.reason,
                "traceback": result.outcome.traceback,
                "transient": result.outcome.transient,
                "samples": result.samples,
                "notes": list(result.notes),
            }
            for result in results
        ]
        self._write(
            "results",
            stage=stage,
            seconds=round(seconds, 4),
            limits=limits or {},
            results=written,
            on=name,
        )

    def progress(self, progress: Progress) -> None:
        """Writes how far the run is; lost without harm, and so not synced."""
        self._write("progress", sync=False, **asdict(progress))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
