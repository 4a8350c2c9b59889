"""Show names that others chose: in one line, and without codes that a terminal obeys."""

import os
import reprlib
from pathlib import Path

import numpy as np


def printable(name: object) -> str:
    r"""Return a name as text of printable characters; others are written as Python writes them.

    Example:
        >>> printable(b"bird"), printable("bi" + chr(27) + "rd"), printable(3)
        ('bird', 'bi\\x1brd', '3')
    """
    if isinstance(name, bytes):
        name = name.decode("latin1")
    text = str(name) if isinstance(name, (str, np.generic)) else reprlib.repr(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_path(name: str | os.PathLike[str]) -> str:
    r"""Return a file's name or path in printable characters; bytes that are no text as \xff."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))


def unreadable(path: Path, error: OSError) -> str:
    """Return a message that says why the system cannot read a file or folder."""
    return f"cannot read {printable_path(path)}: {error.strerror or error}"
