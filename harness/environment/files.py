"""Reads the small files in which a system tells of itself."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def read(path: Path) -> str:
    """Returns what a file says; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(text: str) -> int | None:
    """Returns the whole number that a text is; None for any other text."""
    try:
        return int(text)
    except ValueError:
        return None


def known(**facts: Any) -> dict[str, Any]:
    """Returns the facts that are known: those neither None nor empty.

    >>> known(boost=False, governor="", quota=None)
    {'boost': False}
    """
    return {name: fact for name, fact in facts.items() if fact is not None and fact != ""}


def digest(paths: Iterable[Path]) -> str:
    """Returns 12 digits of the SHA-256 of a file, or of those of several; "" if none is there."""
    digests = []
    for path in sorted(paths):
        with suppress(OSError):
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    if len(digests) > 1:
        digests = [hashlib.sha256("".join(digests).encode()).hexdigest()]
    return digests[0][:12] if digests else ""
