"""How a cell can end."""

import traceback
from dataclasses import dataclass
from enum import StrEnum

from estimators.errors import OptionError


class Status(StrEnum):
    """The kinds of end."""

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
        status: the kind of end.
        reason: one line for people; empty when all went well.
        traceback: of the exception, if there was one.
    """

    status: Status
    reason: str = ""
    traceback: str = ""


class Diverged(ArithmeticError):
    """An estimate or a reference is not finite."""


def outcome_of(error: BaseException) -> Outcome:
    """Names the way in which an exception ended a piece of work.

    Args:
        error: what was raised.
    """
    told = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, Diverged):
        return Outcome(Status.DIVERGED, str(error))
    if isinstance(error, MemoryError) or "out of memory" in told or "can't allocate" in told:
        return Outcome(Status.OUT_OF_MEMORY, told)
    reason = " ".join(str(error).split()) if isinstance(error, OptionError) else told
    return Outcome(Status.FAILED, reason, "".join(traceback.format_exception(error)))
