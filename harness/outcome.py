"""How a cell can end."""

from dataclasses import dataclass
from enum import StrEnum


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
