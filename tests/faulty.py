"""A plug-in whose estimators go wrong in every way there is; `metagrad run --import` takes it."""

import ctypes
import json
import math
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

from estimators import BilevelProblem, Estimator, MetaGradient, Params, create, register
from estimators.tree import scaled

seen_by = ""
"""Set by tests in their own process; a fresh worker must not see it."""


class Faulty(Estimator):
    """First-order MAML, after something has gone wrong."""

    def go_wrong(self) -> None:
        """Goes wrong, or not."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        self.go_wrong()
        return create("fomaml").estimate(problem, params)


@register("good")
@dataclass(frozen=True)
class Good(Faulty):
    """Nothing is wrong with it."""


@register("raises")
@dataclass(frozen=True)
class Raises(Faulty):
    """Fails as a bug would."""

    def go_wrong(self) -> None:
        """Raises an error of two lines."""
        raise KeyError("no such\nparameter")


class TwoPartError(Exception):
    """Cannot be unpickled: it wants two arguments and keeps one."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


@register("raises-unpicklable")
@dataclass(frozen=True)
class RaisesUnpicklable(Faulty):
    """Fails with an error that does not survive the way to the runner."""

    def go_wrong(self) -> None:
        """Raises it."""
        raise TwoPartError("one", "other")


@register("nan")
@dataclass(frozen=True)
class Nan(Faulty):
    """Returns what is no number."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        """See `Estimator.estimate`."""
        right = super().estimate(problem, params)
        gradient = scaled(math.nan, right.gradient)
        return MetaGradient(gradient, right.outer_loss, right.adapted, hvps=0, serial_depth=0)


@register("segfaults")
@dataclass(frozen=True)
class Segfaults(Faulty):
    """Crashes as native code does."""

    def go_wrong(self) -> None:
        """Reads address 0."""
        ctypes.string_at(0)


@register("sleeps")
@dataclass(frozen=True)
class Sleeps(Faulty):
    """Never ends, for all that its caller can tell.

    Attributes:
        path: a file into which it writes the number of its process, if not empty.
    """

    path: str = ""

    def go_wrong(self) -> None:
        """Sleeps for as long as the runner is there, so that no test leaves it behind."""
        if self.path:
            Path(self.path).write_text(str(os.getpid()), encoding="utf-8")
        while (runner := multiprocessing.parent_process()) and runner.is_alive():
            time.sleep(0.1)
        os._exit(1)


@register("quits")
@dataclass(frozen=True)
class Quits(Faulty):
    """Ends its process without a word."""

    def go_wrong(self) -> None:
        """Exits with code 3."""
        os._exit(3)


@register("exits")
@dataclass(frozen=True)
class Exits(Faulty):
    """Ends as a script does."""

    def go_wrong(self) -> None:
        """Exits with code 4."""
        raise SystemExit(4)


@register("hungry")
@dataclass(frozen=True)
class Hungry(Faulty):
    """Asks for more memory than there is."""

    def go_wrong(self) -> None:
        """Runs out of memory."""
        raise MemoryError("no room for 1 PiB")


@register("tires")
@dataclass(frozen=True)
class Tires(Faulty):
    """Works so many times in a process, and then no more.

    Attributes:
        calls: how many times.
    """

    calls: int

    def go_wrong(self) -> None:
        """Counts, and raises in the end."""
        global _calls
        _calls += 1
        if _calls > self.calls:
            raise RuntimeError(f"tired after {self.calls} calls")


_calls = 0


@register("witness")
@dataclass(frozen=True)
class Witness(Faulty):
    """Writes down where it runs.

    Attributes:
        path: a file to which it appends a line of JSON at each call.
    """

    path: str

    def go_wrong(self) -> None:
        """Writes a line."""
        line = {"pid": os.getpid(), "parent": os.getppid(), "seen_by": seen_by}
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
