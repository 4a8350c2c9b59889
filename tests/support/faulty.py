"""A plug-in of estimators that go wrong in every way there is, for `metagrad run --import`."""

import ctypes
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from estimators import BilevelProblem, Estimator, MetaGradient, Params, create, register
from estimators.base.tree import scaled

seen_by = ""
"""Set by tests in their own process; a fresh worker must not see it."""


@dataclass(frozen=True)
class Faulty(Estimator):
    """First-order MAML, after something has gone wrong."""

    go_wrong: Callable[[], object]

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        self.go_wrong()
        return create("fomaml").estimate(problem, params)


def fault(function: Callable[..., None]) -> Callable[..., None]:
    """Register an estimator that first calls this function; its arguments are the options."""

    @wraps(function)
    def build(**options: Any) -> Faulty:
        return Faulty(partial(function, **options))

    register(function.__name__.replace("_", "-"))(build)
    return function


def first_time(name: str) -> bool:
    """Return whether this process asks for a name for the first time."""
    first = name not in _names
    _names.add(name)
    return first


_names: set[str] = set()


@fault
def good() -> None:
    """Do nothing wrong."""


@fault
def raises() -> None:
    """Fail as a bug would."""
    raise KeyError("no such\nparameter")


class TwoPartError(Exception):
    """Cannot be unpickled: it wants two arguments and keeps one."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


@fault
def raises_unpicklable() -> None:
    """Fail with an error that does not survive the way to the runner."""
    raise TwoPartError("one", "other")


@fault
def segfaults() -> None:
    """Crash as native code does."""
    ctypes.string_at(0)


@fault
def quits() -> None:
    """End the process without a word."""
    os._exit(3)


@fault
def exits() -> None:
    """End as a script does."""
    raise SystemExit(4)


@fault
def hungry() -> None:
    """Ask for more memory than there is."""
    raise MemoryError("no room for 1 PiB")


@fault
def tires(calls: int) -> None:
    """Fail in a process after so many calls."""
    if next(_calls) >= calls:
        raise RuntimeError(f"tired after {calls} calls")


_calls = itertools.count()


@fault
def witness(path: str) -> None:
    """Append a line of JSON to a file: the process, its parent and what it has seen."""
    line = {"pid": os.getpid(), "parent": os.getppid(), "seen_by": seen_by}
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@fault
def spins() -> None:
    """Loop for ever in native code, which never gives the interpreter's lock back."""
    sum(itertools.repeat(0))


@fault
def stubborn() -> None:
    """Never end, even when signals demand it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    quiet, _ = os.pipe()
    ctypes.PyDLL(None).read(quiet, ctypes.create_string_buffer(1), 1)


@fault
def swells(*, tensors: bool = False) -> None:
    """Take memory without end, from torch or from Python."""
    size = 50 * 2**20
    taken: list[object] = []
    while True:
        taken.append(torch.ones(size // 4) if tensors else b"\1" * size)


@fault
def huge() -> None:
    """Want one tensor that no machine has the room for."""
    torch.empty(2**50, dtype=torch.uint8)


@fault
def prints(mebibytes: int) -> None:
    """Print so much, once in each process and without any line break."""
    for stream in (sys.stdout, sys.stderr) if first_time("prints") else ():
        for _ in range(mebibytes // 2):
            stream.write("-" * 2**19)
            stream.flush()
            os.write(stream.fileno(), b"=" * 2**19)


@fault
def forks() -> None:
    """Leave a child behind that holds on to all that it was born with."""
    if first_time("forks") and not os.fork():
        time.sleep(1000)
        os._exit(0)


@fault
def threads() -> None:
    """Leave a thread behind that the interpreter would wait for."""
    if first_time("threads"):
        threading.Thread(target=time.sleep, args=(1000,)).start()


@fault
def closes() -> None:
    """Close files of others."""
    os.closerange(0, 1024)


@fault
def aborts() -> None:
    """End as a failed assertion in native code does."""
    os.abort()


@fault
def kills_itself() -> None:
    """End as if somebody had ended it."""
    os.kill(os.getpid(), signal.SIGKILL)


class SpeechlessError(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words for it")


@fault
def raises_speechless() -> None:
    """Fail with an error whose message cannot be read."""
    raise SpeechlessError


@fault
def raises_at_length() -> None:
    """Fail with an error of 10 MB."""
    raise ValueError("what a long\nstory " * 555_556)


@fault
def wants_no_cuda() -> None:
    """Fail where CUDA is in use in this process, or was in the one it was forked from."""
    cuda: Any = torch.cuda
    if cuda.is_initialized() or cuda._is_in_bad_fork():
        raise RuntimeError("CUDA is in use")


@fault
def dawdles(seconds: float) -> None:
    """Take so long at each call that something can happen meanwhile."""
    time.sleep(seconds)


@fault
def warns() -> None:
    """Warn at each call."""
    warnings.warn("mind the gap", stacklevel=1)


@fault
def leaks() -> None:
    """Keep 4 KiB of every call."""
    _leaked.append(torch.zeros(1024))


_leaked: list[torch.Tensor] = []


@register("nan")
@dataclass(frozen=True)
class Nan(Estimator):
    """Returns a gradient that is not a number."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = create("fomaml").estimate(problem, params)
        gradient = scaled(math.nan, right.gradient)
        return MetaGradient(gradient, right.outer_loss, right.adapted, hvps=0, serial_depth=0)


@register("returns")
@dataclass(frozen=True)
class Returns(Estimator):
    """Returns None, or a word or a number of an unusual type as the number of HVPs."""

    what: str

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        right = create("fomaml").estimate(problem, params)
        odd: dict[str, Any] = {"word": "three", "tensor": torch.tensor(3), "numpy": np.int64(3)}
        returned = replace(right, hvps=odd[self.what]) if self.what in odd else None
        return cast(MetaGradient, returned)
