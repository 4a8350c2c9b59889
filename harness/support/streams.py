"""Standard output and error that take any text, and that may fail without ending the work."""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from estimators.base.errors import UserError

_ERRORS = "metagrad.plain"  # the name of `_plain` among the ways to handle errors
_PLAIN = {"✓": "+", "✗": "x", "×": "x", "–": "-", "±": "+-"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one, "?") for one in lacking), error.end


codecs.register_error(_ERRORS, _plain)


class _Output(io.FileIO):
    """A file that can be written to for ever; what follows an error is dropped."""

    error: OSError | None = None

    def write(self, content: memoryview) -> int:  # type: ignore[override]
        while self.error is None:
            try:
                if (written := super().write(content)) is not None:
                    return written
                select.select([], [self], [])  # a full pipe that another process made non-blocking
            except OSError as error:
                self.error = error
        return len(content)


@contextmanager
def lasting_streams() -> Generator[None]:
    """Have standard output and error take any text, and drop it where it cannot be written.

    A closed pipe, as of `| head`, or a full disk then costs output, and not the results of hours.
    Python processes that are started from now on print in UTF-8.

    Raises:
        UserError: some of the output is lost, and not because a pipe was closed.
    """
    os.environ["PYTHONIOENCODING"] = "utf-8:replace"
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = _lasting(sys.stdout), _lasting(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.flush()
    error = getattr(getattr(getattr(streams[0], "buffer", None), "raw", None), "error", None)
    if error is not None and error.errno != errno.EPIPE:
        raise UserError(f"cannot write to standard output: {error.strerror}")


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed before Python began
        return Path(os.devnull).open("w", encoding="utf-8")
    try:
        file = _Output(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # no file, as in tests
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
        return stream
    buffer: BinaryIO = io.BufferedWriter(file)  # type: ignore[type-var]
    return io.TextIOWrapper(
        buffer, stream.encoding, _ERRORS, line_buffering=bool(stream.line_buffering)
    )
