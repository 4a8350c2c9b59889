"""The main function of a worker process: one call, whose result or error goes to the runner."""

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

TRACEBACK_SIGNAL = signal.SIGUSR1
"""Makes a worker print the traceback of each thread, also while it runs native code."""

_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


_runner: Connection | None = None


@dataclass(frozen=True)
class PartStarted:
    """A message of a worker: it begins with a part of its work, which has its own time limit."""

    part: int
    text: str = ""


def start_part(part: int, text: str = "") -> None:
    """Send the runner which part of the work begins; do nothing where there is no runner."""
    if _runner is not None:
        _runner.send(PartStarted(part, text))


def main(
    results: Connection,
    output: Connection,
    plugins: tuple[str, ...],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Call a function, send its outcome and value, and end the process."""
    global _runner
    _runner = results
    os.setpgid(0, 0)  # Ctrl-C is for the runner; and the runner can kill all that we start
    _end_with_the_runner()
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    gc.freeze()  # modules of the fork server need no garbage collection
    faulthandler.enable()
    faulthandler.register(TRACEBACK_SIGNAL, all_threads=True)
    try:
        load_plugins(plugins)
        fixed_flags()  # after plug-ins, which may be written for something else as well
        result = Outcome(Status.OK), function(*arguments)
    except BaseException as error:  # estimators can raise SystemExit, too
        # Exceptions are turned into outcomes here, since not every one can be sent.
        result = outcome_of(error), None
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # an estimator may have closed it
            stream.flush()
    results.send(result)
    os._exit(0)  # a regular exit of torch takes longer than most measurements


def _end_with_the_runner() -> None:
    """Have the system kill this process when the fork server ends, which ends with the runner.

    A thread could not do it: native code may hold the interpreter's lock for ever.
    """
    # The fork server ends when nobody holds this pipe open, and passes it on to us.
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)
