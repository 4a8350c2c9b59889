"""How what went wrong is told: one line for the person who wrote the estimator."""

import linecache
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from estimators import Estimator, OptionError

_LONGEST = 240  # characters of another's message


class Violation(AssertionError):
    """What an estimator must do it does not: the message says what, and what would be right."""


class NotApplicable(Exception):  # no error: a check has nothing to say
    """A check cannot be made on this estimator, or on this case; the message says why."""


@contextmanager
def noted(circumstances: str) -> Generator[None]:
    """Add the circumstances to whatever goes wrong in a block.

    Yields:
        Nothing.
    """
    try:
        yield
    except BaseException as error:
        error.add_note(circumstances)
        raise


def told(error: BaseException, estimator: Estimator) -> str:
    """Tells an exception in one line; one that is the estimator's own, with its last own line."""
    notes = ", ".join(reversed(getattr(error, "__notes__", [])))
    where = f" ({notes})" if notes else ""
    if isinstance(error, Violation | NotApplicable):
        return f"{error}{where}"
    message = _short(str(error))
    if isinstance(error, OptionError):
        return f"it refuses: {message}{where}"
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{what}{where}{_last_own_line(error, estimator)}"


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
