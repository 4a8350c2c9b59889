"""Worker processes: start, limits, and end."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import (
    connection,
    current_process,
    forkserver,
    get_all_start_methods,
    get_context,
    resource_tracker,
)
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import psutil

from estimators.base.errors import UserError
from estimators.base.registry import ESTIMATORS
from harness.environment.machine import limits as container_limits
from harness.matrix.outcome import Outcome, Status, place
from harness.running import worker
from harness.support.files import temporary_folder
from harness.support.signals import block_signals, delay_signals

_MIB = 2**20
_SHARE = 0.9  # of the machine's memory, for all workers together
_POLL_EVERY = 0.1  # seconds between readings of a worker's memory
_GRACE = 0.5  # seconds for a worker to print its traceback before it is killed
_LONGEST = 107 - len("/metagrad.xxxxxxxx/listener-xxxxxxxx")  # bytes of a socket's path
_MOST_OUTPUT = 16_384  # bytes of the end of a worker's output
# Exit codes of workers that were ended from outside; 255 if the fork server was.
_TRANSIENT = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, 255)


@dataclass(frozen=True)
class Limits:
    """Limits of a piece of work.

    Attributes:
        seconds: wall time; of each part, if the worker reports when a part begins.
        memory: bytes of resident memory of the worker process.
    """

    seconds: float
    memory: float


@dataclass(frozen=True)
class WorkResult:
    """How a piece of work ended.

    Attributes:
        outcome: how it ended.
        value: its return value; None unless the outcome is ok.
        seconds: wall time, including the start of the worker.
        part: the part of the work that began last; see `harness.running.worker.start_part`.
        machine: environment of the machine that did it, if that is another one.
    """

    outcome: Outcome
    value: Any = None
    seconds: float = 0.0
    part: int = 0
    machine: dict[str, Any] | None = None


def worker_memory(jobs: int) -> float:
    """Return the bytes of memory that each of several workers may take by default."""
    usable = min(psutil.virtual_memory().total, container_limits().get("memory", math.inf))
    return _SHARE * usable / jobs


def usable_processors(most: int) -> int:
    """Return how many processors this process may use, at most so many."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = container_limits().get("processors", math.inf)
    return max(1, int(min(most, given or 1, math.ceil(quota) if quota < most else most)))


def refuse_full_disk(result: WorkResult) -> None:
    """Refuse to go on after a piece of work failed on a full disk, as the next one would.

    Raises:
        UserError: it did.
    """
    if result.outcome.disk_full:
        raise UserError(
            f"the disk is full ({result.outcome.reason}); make room and "
            "run the same command again: it goes on from here"
        )


class Stopped(Exception):
    """The run is stopped, and the worker was killed."""


def fresh_processes() -> BaseContext:
    """Return a context whose workers are forked from a process that has imported torch."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["harness.running.measures", *ESTIMATORS.built_in_modules()])
    return context


@cache
def start_fork_server() -> None:
    """Start the process that workers are forked from, shielded from Ctrl-C and the working folder.

    Otherwise Ctrl-C would end it while it imports torch, with a traceback, and it would import a
    `random.py` of the user's instead of the standard library's.

    Raises:
        UserError: the folder for temporary files has too long a name.
    """
    if "forkserver" not in get_all_start_methods():
        return
    folder = gettempdir()
    if len(os.fsencode(folder)) > _LONGEST:
        raise UserError(
            f"the folder for temporary files, {folder}, has too long a name for the sockets of "
            f"worker processes; set TMPDIR to one of {_LONGEST} bytes or less"
        )
    fresh_processes()
    # Where its socket is; the folder that multiprocessing makes outlives a process that is killed.
    current_process()._config["tempdir"] = str(temporary_folder())  # type: ignore[attr-defined]
    was_safe = "PYTHONSAFEPATH" in os.environ
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        resource_tracker.ensure_running()  # which unblocks signals when it is started
        with block_signals():
            forkserver.ensure_running()
    finally:
        if not was_safe:
            del os.environ["PYTHONSAFEPATH"]


def run_in_worker(
    function: Callable[..., Any],
    *arguments: Any,
    limits: Limits,
    plugins: tuple[str, ...] = (),
    stop: threading.Event | None = None,
    on_part: Callable[[worker.PartStarted], None] = lambda part: None,
) -> WorkResult:
    """Call a function in a fresh process, under limits.

    Raises:
        Stopped: `stop` was set.
    """
    context = fresh_processes()
    results, its_results = context.Pipe(duplex=False)
    output, its_output = context.Pipe(duplex=False)
    start = time.monotonic()
    kills = _kills_for_memory()
    process = context.Process(  # type: ignore[attr-defined]
        target=worker.main, args=(its_results, its_output, plugins, function, arguments)
    )
    with results, output:
        try:
            _start(process)
            its_results.close()
            its_output.close()
            monitor = _Monitor(process, results, output, start, limits, stop, on_part)
            outcome, value = monitor.wait() or (monitor.crashed(kills), None)
        finally:
            _kill(process)
    return WorkResult(outcome, value, time.monotonic() - start, monitor.part)


class _Monitor:
    """Reads the messages and output of one worker and enforces its limits."""

    def __init__(
        self,
        process: BaseProcess,
        results: Connection,
        output: Connection,
        start: float,
        limits: Limits,
        stop: threading.Event | None,
        on_part: Callable[[worker.PartStarted], None],
    ) -> None:
        self.process, self.results, self.output = process, results, output
        self.start, self.limits, self.stop, self.on_part = start, limits, stop, on_part
        self.open: list[Any] = [results, output, process.sentinel]
        self.printed = b""
        self.checked = start
        self.part = 0

    def wait(self) -> tuple[Outcome, Any] | None:
        """Wait for the outcome and value; return None if the worker ended without sending them.

        Raises:
            Stopped: `stop` was set.
        """
        while True:
            ready = connection.wait(self.open, timeout=_POLL_EVERY)
            if self.output in ready:
                self._drain()
            if self.results in ready:
                message = self._message()
                if isinstance(message, worker.PartStarted):
                    self.start, self.part = time.monotonic(), message.part
                    self.on_part(message)
                elif message is not None:
                    return message
            elif self.process.sentinel in ready and not self._has_message():
                return None
            if self.stop and self.stop.is_set():
                raise Stopped
            if exceeded := self._exceeded_limit():
                return exceeded, None

    def _has_message(self) -> bool:
        return self.results in self.open and self.results.poll()

    def _message(self) -> tuple[Outcome, Any] | worker.PartStarted | None:
        try:
            content = self.results.recv_bytes()
        except (EOFError, OSError):
            self.open.remove(self.results)
            return None
        try:
            message: tuple[Outcome, Any] | worker.PartStarted = ForkingPickler.loads(content)
        except Exception as error:
            reason = f"its return value cannot be read: {error}"
            return Outcome(Status.FAILED, " ".join(reason.split())), None
        return message

    def _exceeded_limit(self) -> Outcome | None:
        now = time.monotonic()
        status, reason = Status.OK, ""
        if now - self.start > self.limits.seconds:
            status, reason = Status.TIMEOUT, f"not done after {self.limits.seconds:g} s"
        elif now - self.checked >= _POLL_EVERY:
            self.checked = now
            if self._resident() > self.limits.memory:
                status = Status.OUT_OF_MEMORY
                reason = f"it took more than {self.limits.memory / _MIB:,.0f} MiB"
        if status is Status.OK:
            return None
        where = self._where()
        return Outcome(status, reason + place(where, innermost_first=True), where)

    def crashed(self, kills: int) -> Outcome:
        """Return the outcome of a worker that ended without sending one."""
        while self.output in self.open and self.output.poll():
            self._drain()
        self.process.join()
        code = self.process.exitcode
        printed = self.printed.decode(errors="replace")
        if code == -signal.SIGKILL and _kills_for_memory() > kills:
            reason = "the system killed the worker process for want of memory"
            return Outcome(Status.OUT_OF_MEMORY, reason, printed)
        names = {-int(number): number.name for number in signal.Signals}
        cause = names.get(code, f"exit code {code}") if code is not None else "unknown means"
        where = place(printed.rpartition("Fatal Python error")[2], innermost_first=True)
        reason = f"the worker process ended by {cause}{where}"
        return Outcome(Status.CRASHED, reason, printed, transient=code in _TRANSIENT)

    def _drain(self) -> None:
        chunk = os.read(self.output.fileno(), 2**20)
        self.printed = (self.printed + chunk)[-_MOST_OUTPUT:]
        if not chunk:
            self.open.remove(self.output)

    def _where(self) -> str:
        """Return the traceback of each thread of the worker, also in native code."""
        self.printed = b""
        with suppress(OSError):
            assert self.process.pid
            os.kill(self.process.pid, worker.TRACEBACK_SIGNAL)
        until = time.monotonic() + _GRACE
        while self.output in self.open and (left := until - time.monotonic()) > 0:
            if not self.output.poll(left):
                break
            self._drain()
            until = min(until, time.monotonic() + _GRACE / 5)
        return self.printed.decode(errors="replace")

    def _resident(self) -> int:
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0


_starting = threading.Lock()


def _start(process: BaseProcess) -> None:
    """Start a worker that does not run our main script again.

    No worker needs it, and it would take longer than most cells.
    """
    main = vars(sys.modules["__main__"])
    # A fork server that is interrupted within a request prints a traceback.
    with _starting, delay_signals():
        start_fork_server()
        saved: dict[str, Any] = {
            name: main[name] for name in ("__file__", "__spec__") if name in main
        }
        main.pop("__file__", None)  # as in a console
        main["__spec__"] = None
        try:
            for wait in (0.1, 1.0):
                try:
                    return process.start()
                except (EOFError, ConnectionError):  # the fork server was killed
                    time.sleep(wait)
            process.start()
        finally:
            main.update(saved)


def _kill(process: BaseProcess) -> None:
    """Kill a worker and all processes that it has started."""
    if process.pid is None:  # interrupted before it was started
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:  # it has ended, or has not made its process group yet
        process.kill()
    process.join()


def _kills_for_memory() -> int:
    """Return how many processes the system has killed so far for want of memory."""
    count = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with suppress(OSError, ValueError):
            for line in Path(path).read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    count += int(line.split()[1])
    return count
