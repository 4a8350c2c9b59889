"""What a worker process does: one call, of which its runner hears in any case."""

import ctypes
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from harness.environment.build import fixed_flags
from harness.matrix.outcome import Outcome, Status, outcome_of
from harness.support.plugins import load_plugins

DUMP_TRACEBACK = signal.SIGUSR1
"""Makes a worker write where each of its threads is, also while it is in native code."""

_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


_runner: Connection | None = None


@dataclass(frozen=True)
class Turn:
    """Said by a worker: I now begin with this part of my work, which has its own time limit."""

    part: int
    told: str = ""


def begin_part(part: int, told: str = "") -> None:
    """Tells the runner which part of the work begins; nothing where there is no runner."""
    if _runner is not None:
        _runner.send(Turn(part, told))


def main(
    results: Connection,
    output: Connection,
    plugins: tuple[str, ...],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Calls a function as the only thing that this process does; does not return."""
    global _runner
    _runner = results
    os.setpgid(0, 0)  # Ctrl-C is for the runner; and what we start can be ended with us
    _end_with_the_runner()
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    gc.freeze()  # what the fork server has imported need not be looked through again
    faulthandler.enable()
    faulthandler.register(DUMP_TRACEBACK, all_threads=True)
    try:
        load_plugins(plugins)
        fixed_flags()  # after plug-ins, which may be written for something else as well
        ending = Outcome(Status.OK), function(*arguments)
    except BaseException as error:  # SystemExit, too, is how an estimator can end
        # Exceptions are turned into outcomes here, since not every one can be sent.
        ending = outcome_of(error), None
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # an estimator may have closed it
            stream.flush()
    results.send(ending)
    os._exit(0)  # tearing torch down takes longer than most of what is measured


def _end_with_the_runner() -> None:
    """Has the system kill us as soon as the fork server ends, which ends with the runner.

    A thread of ours could not: native code may hold the interpreter's lock for ever.
    """
    # The fork server ends once nobody holds this pipe any more, and hands it to us too.
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)
