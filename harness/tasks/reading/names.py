"""How names that others chose are shown: in one line, and without codes that a terminal obeys."""

import os
import reprlib

import numpy as np


def shown(name: object) -> str:
    r"""Returns a name as text of printable characters; others are written as Python writes them.

    Example:
        >>> shown(b"bird"), shown("bi" + chr(27) + "rd"), shown(3)
        ('bird', 'bi\\x1brd', '3')
    """
    if isinstance(name, bytes):
        name = name.decode("latin1")
    text = str(name) if isinstance(name, (str, np.generic)) else reprlib.repr(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown_file(name: str) -> str:
    r"""Returns a file's name or path as `shown` does; bytes that are no text as \xff."""
    return shown(os.fsencode(name).decode("utf-8", "backslashreplace"))
