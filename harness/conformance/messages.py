"""One-line messages for the author of an estimator."""

import linecache
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from estimators import Estimator, OptionError

_LONGEST = 240  # characters of another's message


class Violation(AssertionError):
    """A broken rule; the message says which, and what would be right."""


class NotApplicable(Exception):  # no error
    """A check does not apply to this estimator, or to this case; the message says why."""


@contextmanager
def add_note(circumstances: str) -> Generator[None]:
    """Add a note on the circumstances to the errors of a block."""
    try:
        yield
    except BaseException as error:
        error.add_note(circumstances)
        raise


def error_line(error: BaseException, estimator: Estimator) -> str:
    """Return an exception in one line, with the last line of the estimator's own code in it."""
    notes = ", ".join(reversed(getattr(error, "__notes__", [])))
    where = f" ({notes})" if notes else ""
    if isinstance(error, Violation | NotApplicable):
        return f"{error}{where}"
    message = _short(str(error))
    if isinstance(error, OptionError):
        return f"it refuses: {message}{where}"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{text}{where}{_last_own_line(error, estimator)}"


def _last_own_line(error: BaseException, estimator: Estimator) -> str:
    home = _package(type(estimator).__module__)
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [pair for pair in frames if _package(pair[0].f_globals.get("__name__", "")) == home]
    if not own:
        return ""
    frame, line = own[-1]
    path = frame.f_code.co_filename
    source = linecache.getline(path, line, frame.f_globals).strip()
    return f", at {Path(path).name}:{line}" + (f": {source}" if source else "")


def _package(module: str) -> str:
    return module.partition(".")[0]


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
