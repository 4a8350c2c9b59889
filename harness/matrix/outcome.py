"""Outcomes of cells."""

import errno
import re
import sysconfig
import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from estimators.base.errors import UserError

_LONGEST_REASON = 600
_LONGEST_TRACEBACK = 20_000
# Frames of these libraries do not show where an error comes from.
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+),? in (?P<function>[^\n]+)')


class Status(StrEnum):
    """Kinds of outcome."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


@dataclass(frozen=True)
class Outcome:
    """How one piece of work ended.

    Attributes:
        reason: one line for people; empty when all went well.
        traceback: of the exception, or of where a worker was when it was ended; what a crashed
            one printed last.
        transient: it was ended from outside, so that another try may go well.
        disk_full: there was no room to write, as there will be for nobody else.
    """

    status: Status
    reason: str = ""
    traceback: str = ""
    transient: bool = False
    disk_full: bool = False


class Diverged(ArithmeticError):
    """An estimate, a loss or a reference is not finite."""


def outcome_of(error: BaseException) -> Outcome:
    """Return the outcome of a piece of work that an exception ended."""
    frames = "".join(traceback.format_exception(error))
    kept = frames if len(frames) <= _LONGEST_TRACEBACK else f"...\n{frames[-_LONGEST_TRACEBACK:]}"
    if isinstance(error, Diverged):
        return Outcome(Status.DIVERGED, str(error), kept)
    message = " ".join(_message(error).split())
    reason = message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"
    reason = one_line(reason)
    if not isinstance(error, UserError):
        reason += place(frames, innermost_first=False)
    # On a CPU, and where CUDA itself lacks it, torch raises an error of no particular class.
    no_memory = isinstance(error, MemoryError) or any(
        text in message for text in ("out of memory", "can't allocate")
    )
    return Outcome(
        Status.OUT_OF_MEMORY if no_memory else Status.FAILED,
        reason,
        kept,
        disk_full=isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT),
    )


def one_line(text: str) -> str:
    """Return a text in one line that is not too long for a table."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's own exception, whose __str__ fails
        return "(its message cannot be read)"


def place(frames: str, *, innermost_first: bool) -> str:
    """Return the innermost place outside of libraries, as " (file.py:12 in function)", or ""."""
    matches = list(_FRAME.finditer(frames))
    for frame in matches if innermost_first else reversed(matches):
        if not frame["file"].startswith((*_LIBRARIES, "<")):
            return f" ({Path(frame['file']).name}:{frame['line']} in {frame['function'].strip()})"
    return ""
