"""Find the journal of interrupted or finished work, to go on with it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.store.events import first_event, parse_event
from harness.store.journal import EventFile

J = TypeVar("J", bound=EventFile)


@dataclass(frozen=True)
class Previous(Generic[J]):
    """The newest work of the same plan, code and machine."""

    journal: J | None = None  # open, to go on with
    ended: Path | None = None  # the journal that has ended
    lines: list[str] = field(default_factory=list)  # messages for the user


def digest(facts: Any) -> str:
    """Return a short digest of JSON values."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def starts(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the journals of a folder, newest first, each with its first event."""
    for path in sorted(folder.glob("*.jsonl"), reverse=True):
        with suppress(OSError):
            yield path, first_event(path)


def find_previous(
    folder: Path,
    kind: type[J],
    identity: dict[str, str],
    has_ended: Callable[[Path], bool],
    on_busy: Callable[[Path], str],
) -> Previous[J]:
    """Return the newest work that is not finished, or else the newest that is.

    Args:
        folder: of the journals.
        kind: class of the journal.
        identity: fields of the first event: a digest of what is done, and "state", one of what
            decides its results.
        has_ended: tells whether a journal has ended; raises ValueError where it cannot be read.
        on_busy: returns a message about a journal that another process writes, or raises an error.
    """
    lines: list[str] = []
    for path, start in starts(folder):
        different = {key for key, value in identity.items() if start.get(key) != value}
        if different - {"state"}:
            continue
        with suppress(OSError):
            try:
                ended = has_ended(path)
                if different:
                    if not ended:
                        lines.append(f"{path} was made with other code, packages, machine or data.")
                    continue
                if not ended:
                    journal = kind(path, new=False)
                    if not has_ended(path):  # since it was read
                        return _resumed(journal)
                    journal.close()
                return Previous(ended=path, lines=lines[:1])
            except BlockingIOError:
                lines.append(on_busy(path))
            except ValueError as error:
                lines.append(f"{path} was interrupted and cannot be read: {error}.")
    return Previous(lines=lines[:1])


def _resumed(journal: J) -> Previous[J]:
    lines = [f"Going on with {journal.path}, which was interrupted."]
    if aside := journal.set_aside(lambda line: parse_event(line) is not None):
        lines.append(f"It had broken or torn lines, which are set aside in {aside}.")
    return Previous(journal, lines=lines)
