"""A plug-in whose estimators go wrong in every way there is; `metagrad run --import` takes it."""

import ctypes
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from estimators import BilevelProblem, Estimator, MetaGradient, Params, create, register
from estimators.base.tree import scaled

seen_by = ""
"""Set by tests in their own process; a fresh worker must not see it."""


class Faulty(Estimator):
    """First-order MAML, after something has gone wrong."""

    def go_wrong(self) -> None:
        """Goes wrong, or not."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
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
        raise TwoPartError("one", "other")


@register("nan")
@dataclass(frozen=True)
class Nan(Faulty):
    """Returns what is no number."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = super().estimate(problem, params)
        gradient = scaled(math.nan, right.gradient)
        return MetaGradient(gradient, right.outer_loss, right.adapted, hvps=0, serial_depth=0)


@register("segfaults")
@dataclass(frozen=True)
class Segfaults(Faulty):
    """Crashes as native code does."""

    def go_wrong(self) -> None:
        ctypes.string_at(0)


@register("quits")
@dataclass(frozen=True)
class Quits(Faulty):
    """Ends its process without a word."""

    def go_wrong(self) -> None:
        os._exit(3)


@register("exits")
@dataclass(frozen=True)
class Exits(Faulty):
    """Ends as a script does."""

    def go_wrong(self) -> None:
        raise SystemExit(4)


@register("hungry")
@dataclass(frozen=True)
class Hungry(Faulty):
    """Asks for more memory than there is."""

    def go_wrong(self) -> None:
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
        line = {"pid": os.getpid(), "parent": os.getppid(), "seen_by": seen_by}
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@register("spins")
@dataclass(frozen=True)
class Spins(Faulty):
    """Loops for ever in native code, which never gives the interpreter's lock back."""

    def go_wrong(self) -> None:
        sum(itertools.repeat(0))


@register("stubborn")
@dataclass(frozen=True)
class Stubborn(Faulty):
    """Never ends, not when it is asked to either."""

    def go_wrong(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        quiet, _ = os.pipe()
        ctypes.PyDLL(None).read(quiet, ctypes.create_string_buffer(1), 1)


@register("swells")
@dataclass(frozen=True)
class Swells(Faulty):
    """Takes memory without end.

    Attributes:
        tensors: from torch rather than from Python.
    """

    tensors: bool = False

    def go_wrong(self) -> None:
        size = 50 * 2**20
        taken: list[object] = []
        while True:
            taken.append(torch.ones(size // 4) if self.tensors else b"\1" * size)


@register("huge")
@dataclass(frozen=True)
class Huge(Faulty):
    """Wants one tensor that no machine has the room for."""

    def go_wrong(self) -> None:
        torch.empty(2**50, dtype=torch.uint8)


@register("prints")
@dataclass(frozen=True)
class Prints(Faulty):
    """Prints, once in each process, without any line break.

    Attributes:
        mebibytes: how much, on standard output and standard error together.
    """

    mebibytes: int

    def go_wrong(self) -> None:
        for stream in (sys.stdout, sys.stderr) if first_time("prints") else ():
            for _ in range(self.mebibytes // 2):
                stream.write("-" * 2**19)
                stream.flush()
                os.write(stream.fileno(), b"=" * 2**19)


def first_time(what: str) -> bool:
    """Whether this process does something for the first time."""
    first = what not in _done
    _done.add(what)
    return first


_done: set[str] = set()


@register("forks")
@dataclass(frozen=True)
class Forks(Faulty):
    """Leaves a child behind that holds on to all that it was born with."""

    def go_wrong(self) -> None:
        if first_time("forks") and not os.fork():
            time.sleep(1000)
            os._exit(0)


@register("threads")
@dataclass(frozen=True)
class Threads(Faulty):
    """Leaves a thread behind that the interpreter would wait for."""

    def go_wrong(self) -> None:
        if first_time("threads"):
            threading.Thread(target=time.sleep, args=(1000,)).start()


@register("closes")
@dataclass(frozen=True)
class Closes(Faulty):
    """Closes what is not its own."""

    def go_wrong(self) -> None:
        os.closerange(0, 1024)


@register("aborts")
@dataclass(frozen=True)
class Aborts(Faulty):
    """Ends as a failed assertion in native code does."""

    def go_wrong(self) -> None:
        os.abort()


@register("kills-itself")
@dataclass(frozen=True)
class KillsItself(Faulty):
    """Ends as if somebody had ended it."""

    def go_wrong(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class SpeechlessError(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words for it")


@register("raises-speechless")
@dataclass(frozen=True)
class RaisesSpeechless(Faulty):
    """Fails with an error that has no message and fails itself when asked for it."""

    def go_wrong(self) -> None:
        raise SpeechlessError


@register("raises-at-length")
@dataclass(frozen=True)
class RaisesAtLength(Faulty):
    """Fails with an error of 10 MB."""

    def go_wrong(self) -> None:
        raise ValueError("what a long\nstory " * 555_556)


@register("returns")
@dataclass(frozen=True)
class Returns(Faulty):
    """Returns what is no estimate.

    Attributes:
        what: None; or in place of the number of HVPs, a word, or a number of an unusual type.
    """

    what: str

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = super().estimate(problem, params)
        odd: dict[str, Any] = {"word": "three", "tensor": torch.tensor(3), "numpy": np.int64(3)}
        returned = replace(right, hvps=odd[self.what]) if self.what in odd else None
        return cast(MetaGradient, returned)


@register("wants-no-cuda")
@dataclass(frozen=True)
class WantsNoCuda(Faulty):
    """Fails where CUDA is in use in this process, or was in the one it was forked from."""

    def go_wrong(self) -> None:
        cuda: Any = torch.cuda
        if cuda.is_initialized() or cuda._is_in_bad_fork():
            raise RuntimeError("CUDA is in use")


@register("dawdles")
@dataclass(frozen=True)
class Dawdles(Faulty):
    """Takes its time, so that something can happen meanwhile.

    Attributes:
        seconds: at each call.
    """

    seconds: float

    def go_wrong(self) -> None:
        time.sleep(self.seconds)


kept: list[torch.Tensor] = []


@register("leaks")
@dataclass(frozen=True)
class Leaks(Faulty):
    """Keeps 4 KiB of every call."""

    def go_wrong(self) -> None:
        kept.append(torch.zeros(1024))
