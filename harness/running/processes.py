"""Worker processes: how they start, are watched, and end, if need be against their will."""

import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import (
    connection,
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
from typing import Any

import psutil

from estimators.base.errors import UserError
from estimators.base.registry import ESTIMATORS
from harness.environment.cgroups import limits as container_limits
from harness.matrix.outcome import Outcome, Status, place
from harness.running import worker
from harness.support.signals import block_signals, delay_signals

_MIB = 2**20
_SHARE = 0.9  # of the machine's memory, for all workers together
_WATCH_EVERY = 0.1  # seconds between looks at a worker's memory
_GRACE = 0.5  # seconds for a worker to write where it is before it is killed
_LONGEST = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # a socket's name has 107 bytes
_KEPT_OUTPUT = 16_384  # bytes of what a worker printed last
# Exit codes of workers that were ended from outside; 255 if the fork server was.
_TRANSIENT = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, 255)


@dataclass(frozen=True)
class Limits:
    """What a piece of work may take.

    Attributes:
        seconds: wall time; of each part, where the worker tells that another one begins.
        memory: bytes of resident memory, of the whole worker process.
    """

    seconds: float
    memory: float


@dataclass(frozen=True)
class WorkResult:
    """How a piece of work ended in its worker.

    Attributes:
        outcome: how.
        value: what it returned; None unless the outcome is ok.
        seconds: wall time, start of the worker included.
        part: of the work, that the worker was at; see `harness.running.worker.begin_part`.
        machine: environment of the machine that did it, if that is another one.
    """

    outcome: Outcome
    value: Any = None
    seconds: float = 0.0
    part: int = 0
    machine: dict[str, Any] | None = None


def worker_memory(jobs: int) -> float:
    """Returns the bytes of memory that each of several workers may take by default."""
    usable = min(psutil.virtual_memory().total, container_limits().get("memory", math.inf))
    return _SHARE * usable / jobs


def usable_processors(most: int) -> int:
    """Returns how many processors this process may use."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = container_limits().get("processors", math.inf)
    return max(1, int(min(most, given or 1, math.ceil(quota) if quota < most else most)))


def refuse_full_disk(ending: WorkResult) -> None:
    """Raise UserError if a piece of work failed on a full disk, as the next one would."""
    if ending.outcome.disk_full:
        raise UserError(
            f"the disk is full ({ending.outcome.reason}); make room and "
            "run the same command again: it goes on from here"
        )


class Stopped(Exception):
    """The runner is to stop, and the worker was killed for it."""


def fresh_processes() -> BaseContext:
    """Returns a context whose workers are fresh processes in which torch is imported already.

    There is one fork server to a process, and so one list of what it imports, for all users.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    # torch imports the last one, for a second, at the first use of a dispatch mode.
    context.set_forkserver_preload(
        ["harness.running.measures", *ESTIMATORS.built_in_modules(), "torch._dynamo"]
    )
    return context


@cache
def start_fork_server() -> None:
    """Starts what workers are forked from, out of reach of Ctrl-C and of the working folder.

    It would otherwise end in the midst of importing torch, and print where it was; and take a
    `random.py` of the user's for that of the standard library.

    Raises:
        UserError: the folder for temporary files has too long a name.
    """
    if "forkserver" not in get_all_start_methods():
        return
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST:
        raise UserError(
            f"the folder for temporary files, {folder}, has too long a name for the sockets of "
            f"worker processes; set TMPDIR to one of {_LONGEST} bytes or less"
        )
    fresh_processes()
    was_safe = "PYTHONSAFEPATH" in os.environ
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        resource_tracker.ensure_running()  # which lets signals through when it is started
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
    tell: Callable[[worker.Turn], None] = lambda turn: None,
) -> WorkResult:
    """Calls a function in a fresh process, and watches that from outside.

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
            watch = _Watch(process, results, output, start, limits, stop, tell)
            outcome, value = watch.end() or (watch.crashed(kills), None)
        finally:
            _kill(process)
    return WorkResult(outcome, value, time.monotonic() - start, watch.part)


class _Watch:
    """One worker and what comes from it."""

    def __init__(
        self,
        process: BaseProcess,
        results: Connection,
        output: Connection,
        start: float,
        limits: Limits,
        stop: threading.Event | None,
        tell: Callable[[worker.Turn], None],
    ) -> None:
        self.process, self.results, self.output = process, results, output
        self.start, self.limits, self.stop, self.tell = start, limits, stop, tell
        self.open: list[Any] = [results, output, process.sentinel]
        self.printed = b""
        self.looked = start
        self.part = 0

    def end(self) -> tuple[Outcome, Any] | None:
        """Waits for the end; None when the worker ended without a word.

        Raises:
            Stopped: the runner is to stop.
        """
        while True:
            ready = connection.wait(self.open, timeout=_WATCH_EVERY)
            if self.output in ready:
                self._drain()
            if self.results in ready:
                said = self._said()
                if isinstance(said, worker.Turn):
                    self.start, self.part = time.monotonic(), said.part
                    self.tell(said)
                elif said is not None:
                    return said
            elif self.process.sentinel in ready and not self._has_said():
                return None
            if self.stop and self.stop.is_set():
                raise Stopped
            beyond = self._beyond_limits()
            if beyond:
                return beyond, None

    def _has_said(self) -> bool:
        return self.results in self.open and self.results.poll()

    def _said(self) -> tuple[Outcome, Any] | worker.Turn | None:
        try:
            message = self.results.recv_bytes()
        except (EOFError, OSError):
            self.open.remove(self.results)
            return None
        try:
            said: tuple[Outcome, Any] | worker.Turn = ForkingPickler.loads(message)
        except Exception as error:
            reason = f"what it returned cannot be read: {error}"
            return Outcome(Status.FAILED, " ".join(reason.split())), None
        return said

    def _beyond_limits(self) -> Outcome | None:
        now = time.monotonic()
        status, reason = Status.OK, ""
        if now - self.start > self.limits.seconds:
            status, reason = Status.TIMEOUT, f"not done after {self.limits.seconds:g} s"
        elif now - self.looked >= _WATCH_EVERY:
            self.looked = now
            if self._resident() > self.limits.memory:
                status = Status.OUT_OF_MEMORY
                reason = f"it took more than {self.limits.memory / _MIB:,.0f} MiB"
        if status is Status.OK:
            return None
        where = self._where()
        return Outcome(status, reason + place(where, innermost_first=True), where)

    def crashed(self, kills: int) -> Outcome:
        """Names the way in which the worker ended that could not tell it itself."""
        while self.output in self.open and self.output.poll():
            self._drain()
        self.process.join()
        code = self.process.exitcode
        printed = self.printed.decode(errors="replace")
        if code == -signal.SIGKILL and _kills_for_memory() > kills:
            reason = "the system killed the worker process for want of memory"
            return Outcome(Status.OUT_OF_MEMORY, reason, printed)
        names = {-int(number): number.name for number in signal.Signals}
        how = names.get(code, f"exit code {code}") if code is not None else "unknown means"
        where = place(printed.rpartition("Fatal Python error")[2], innermost_first=True)
        reason = f"the worker process ended by {how}{where}"
        return Outcome(Status.CRASHED, reason, printed, transient=code in _TRANSIENT)

    def _drain(self) -> None:
        chunk = os.read(self.output.fileno(), 2**20)
        self.printed = (self.printed + chunk)[-_KEPT_OUTPUT:]
        if not chunk:
            self.open.remove(self.output)

    def _where(self) -> str:
        """Returns where each thread of the worker is, also in native code."""
        self.printed = b""
        with suppress(OSError):
            assert self.process.pid
            os.kill(self.process.pid, worker.DUMP_TRACEBACK)
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
    """Starts a worker that does not run our main script over again.

    Nothing that a worker is to do is in there, and it takes longer than most cells.
    """
    main = vars(sys.modules["__main__"])
    # A fork server that is left in the midst of a request tells of it, with a traceback.
    with _starting, delay_signals():
        start_fork_server()
        told: dict[str, Any] = {
            name: main[name] for name in ("__file__", "__spec__") if name in main
        }
        main.pop("__file__", None)  # as in a console; a file that is None is what nobody expects
        main["__spec__"] = None
        try:
            for wait in (0.1, 1.0):
                try:
                    return process.start()
                except (EOFError, ConnectionError):  # the fork server was killed; one comes anew
                    time.sleep(wait)
            process.start()
        finally:
            main.update(told)


def _kill(process: BaseProcess) -> None:
    """Ends a worker and whatever it has started."""
    if process.pid is None:  # interrupted before it was there
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:  # it has ended already, or has not come to make a group of its own
        process.kill()
    process.join()


def _kills_for_memory() -> int:
    """Returns how many processes the system has killed so far for want of memory."""
    count = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with suppress(OSError, ValueError):
            for line in Path(path).read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    count += int(line.split()[1])
    return count
