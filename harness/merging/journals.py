"""Which journals are of the same run or training, and of which machine.

A journal is known by its first line, which tells when and on what it began; events are only ever
added to it. So one that begins like another is that other, as it went on.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.store.runs import first_event


def whole_lines(content: bytes) -> bytes:
    """Returns a journal without a last line that was torn when it was killed."""
    return content[: content.rfind(b"\n") + 1]


def first_line(content: bytes) -> bytes:
    """Returns what a journal is known by; nothing where it has no whole line."""
    return content[: content.find(b"\n") + 1]


def by_first_line(folder: Path) -> dict[bytes, list[Path]]:
    """Returns the journals of a folder by what they are known by."""
    found: dict[bytes, list[Path]] = defaultdict(list)
    for path in _journals(folder):
        with path.open("rb") as file:
            found[file.readline()].append(path)
    return found


def has_copy(content: bytes, known: Mapping[bytes, Sequence[Path]]) -> bool:
    """Tells whether a journal is among others, as it is or as it went on."""
    first = first_line(content)
    return bool(first) and any(
        path.read_bytes().startswith(content) for path in known.get(first, ())
    )


def machine_of(path: Path) -> tuple[str, str]:
    """Returns name and fingerprint of the machine that a journal is of, "" if unknown."""
    environment = first_event(path).get("environment")
    told = environment if isinstance(environment, dict) else {}
    return str(told.get("machine", "")), str(told.get("fingerprint", ""))


def namesakes(folder: Path) -> dict[str, int]:
    """Returns the names that several machines have, with how many those are."""
    known = {machine_of(path) for path in _journals(folder)}
    count = Counter(name for name, _ in known if name)
    return {name: count[name] for name in sorted(count) if count[name] > 1}


def _journals(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.jsonl")) if path.is_file()]
