"""Write journals: JSON lines, one event each, on disk before the next piece of work."""

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
from harness.support.files import atomic_file, lock, sync, sync_folder

if TYPE_CHECKING:
    from harness.cell import Cell

SCHEMA = 2
"""Version of the format; 1, with an event for each result, can be read too."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    done: float  # seconds of work, as estimated beforehand
    total: float
    doing: str  # the last piece of work that ended


@dataclass(frozen=True)
class Result:
    """Result of one stage of a cell."""

    cell: "Cell"
    outcome: Outcome
    samples: Samples = field(default_factory=dict)  # by metric
    notes: Sequence[str] = ()  # remarks on the samples, a sentence each


class EventFile:
    """A file to which events are appended; locked, with BlockingIOError where it is already."""

    def __init__(self, path: Path, *, new: bool) -> None:
        self.path = path
        flags = os.O_CREAT | os.O_EXCL if new else 0
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o666)
        try:
            lock(self._file)
            if new:
                sync_folder(path.parent)
        except OSError:
            os.close(self._file)
            if new:
                path.unlink(missing_ok=True)
            raise

    @classmethod
    def create_in(cls, folder: Path) -> Self:
        """Create a file with a unique name, which begins with the time."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}.jsonl"
        return cls(folder / name, new=True)

    def set_aside(self, is_sound: Callable[[bytes], bool]) -> Path | None:
        """Move broken lines, and a torn last one, to NAME.torn; return that file if there are any.

        A failing disk leaves the former, a process that was killed the latter.
        """
        *lines, torn = self.path.read_bytes().split(b"\n")
        broken = [line for line in lines if not is_sound(line)] + ([torn] if torn else [])
        if not broken:
            return None
        torn_file = self.path.with_suffix(".torn")
        with torn_file.open("ab") as file:
            file.writelines(line + b"\n" for line in broken)
            file.flush()
            sync(file.fileno())
        with atomic_file(self.path, synced=True) as file:
            file.writelines(line + b"\n" for line in lines if is_sound(line))
            file.flush()
            mended = EventFile(Path(file.name), new=False)  # locked before it gets the name
        os.close(self._file)
        self._file = mended._file
        return torn_file

    def resume(self, environment: dict[str, Any], **more: Any) -> None:
        """Write that the work goes on."""
        self._write("resume", environment=environment, **more)

    def end(self) -> None:
        """Write that nothing follows, and close the file."""
        self._write("end")
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        os.close(self._file)

    def _write(self, event: str, *, at_once: bool = True, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "at": now, **fields}).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            if at_once:
                sync(self._file)
        except OSError:  # a full disk, which may have taken part of the line
            with suppress(OSError):
                os.ftruncate(self._file, end)
                if not end:
                    self.path.unlink(missing_ok=True)
            raise


class Journal(EventFile):
    """The journal of one run; see `EventFile`."""

    def __init__(self, path: Path, *, new: bool) -> None:
        super().__init__(path, new=new)
        self._machines: set[str] = set()  # names whose environments are written

    @classmethod
    def create(cls, store: Path) -> Self:
        """Create the journal of a new run."""
        return cls.create_in(store / "runs")

    def start(self, environment: dict[str, Any], cells: int, **more: Any) -> None:
        """Write the environment of the run."""
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
        """Write the results of one stage of some cells, all of them or none."""
        name = f"{machine['fingerprint']}-{machine['state']}" if machine else ""
        if name and name not in self._machines:
            self._write("machine", at_once=False, name=name, environment=machine)
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
        """Write the progress; not synced, since its loss does no harm."""
        self._write("progress", at_once=False, **asdict(progress))
