"""The workers of a Dask cluster."""

import asyncio
import concurrent.futures
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import count
from typing import Any, Generic, TypeVar

from distributed import Client, Future, KilledWorker

from estimators.base.errors import UserError
from harness.cell import Cell
from harness.clusters import remote
from harness.clusters.remote import Order
from harness.matrix.outcome import Outcome, Status
from harness.running.processes import Limits, Stopped, WorkResult, refuse_full_disk

_LOOK_EVERY = 0.5  # seconds
_PATIENCE = 5.0  # seconds, with a scheduler or workers that do not answer
_RENEW_EVERY = 60.0  # seconds, in which a worker that was lost may also come back by itself
_LEAST_IN_FLIGHT = 16  # for workers that come later
_GONE = (asyncio.CancelledError, concurrent.futures.CancelledError, OSError, TimeoutError)

T = TypeVar("T")


class Cluster:
    """Does work on the workers of a Dask cluster; see `Executor`.

    A piece of work asks for one unit of the resource that is called like its cell's device, so
    that workers which have one unit of it never share the device. A piece whose worker is lost is
    done again by another.
    """

    def __init__(
        self,
        client: Client,
        *,
        workers: int,
        limits: Limits,
        plugins: tuple[str, ...],
        code: dict[str, Any],
        devices: frozenset[str],
        timed_at_once: int | None = None,
        renew: Callable[[], object] = lambda: None,
    ) -> None:
        self.limits = limits
        self.workers = workers
        self.timed_at_once = timed_at_once or workers
        self.in_flight = max(2 * workers, _LEAST_IN_FLIGHT)
        self._client = client
        self._order = Order(secrets.token_hex(8), limits, plugins, code)
        self._devices = devices
        self._stop = threading.Event()
        self._numbers = count()
        self._wanted: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._machine: dict[str, Any] | None = None  # one of those that work
        self._renew, self._renewed = renew, time.monotonic()

    def missing(self, device: str) -> str | None:
        """See `Executor`."""
        if device in self._devices:
            return None
        have = ", ".join(sorted(self._devices)) or "nothing"
        return f"no worker of the cluster has {device}; they have {have}"

    def ready(self) -> None:
        """See `Executor`."""

    def reference(self, group: Cell) -> tuple[WorkResult, Future[remote.Made]]:
        """See `Executor`; the reference stays on the workers."""
        made = self._submit(remote.reference, self._order, group, cell=group)
        with self._wanting(group.device):
            # Quick, and so before all else, where the device is, be it free or not.
            told = self._client.submit(
                remote.told, made, pure=False, priority=10, resources={group.device: 0}
            )
            return self._ending(told), made

    def score(self, cell: Cell, reference: Future[remote.Made]) -> WorkResult:
        """See `Executor`."""
        with self._wanting(cell.device):
            return self._ending(self._submit(remote.score, self._order, cell, reference, cell=cell))

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        """See `Executor`."""
        with self._wanting(cells[0].device):
            return self._ending(
                self._submit(remote.time, self._order, cells, samples, cell=cells[0])
            )

    def stop(self) -> None:
        """See `Executor`; workers that do not answer are not waited for."""
        self._stop.set()
        _Answer(lambda: self._client.run(remote.stop, self._order.run)).wait(_PATIENCE)

    def trouble(self) -> str:
        """See `Executor`; has lost workers started anew, where somebody can."""
        asked = _Answer(lambda: workers_of(self._client))
        try:
            there = asked.result(_PATIENCE)
        except _GONE:  # pieces of work find out for themselves whether that is for good
            return "the scheduler does not answer"
        if len(there) < self.workers and time.monotonic() - self._renewed > _RENEW_EVERY:
            self._renew()
            self._renewed = time.monotonic()
        have = devices_of(there)
        with self._counting:
            lacking = sorted(device for device in +self._wanted if device not in have)
        return f"waiting for a worker that has {' and '.join(lacking)}" if lacking else ""

    def _submit(self, function: Callable[..., Any], *arguments: Any, cell: Cell) -> Future[Any]:
        return self._client.submit(
            function,
            *arguments,
            key=f"{function.__name__}-{self._order.run}-{next(self._numbers)}",
            pure=False,
            resources={cell.device: 1},
        )

    @contextmanager
    def _wanting(self, device: str) -> Generator[None]:
        with self._counting:
            self._wanted[device] += 1
        try:
            yield
        finally:
            with self._counting:
                self._wanted[device] -= 1

    def _ending(self, future: Future[WorkResult]) -> WorkResult:
        """Waits for a piece of work.

        Raises:
            Stopped: `stop` was called.
            UserError: the scheduler is gone, or a worker cannot work.
        """
        answer = _Answer(future.result)
        while not answer.wait(_LOOK_EVERY):
            if self._stop.is_set():
                raise Stopped
        try:
            ending = answer.result()
        except KilledWorker as error:
            lost = error.allowed_failures + 1
            reason = f"{lost} workers of the cluster were lost while they were at it"
            outcome = Outcome(Status.CRASHED, reason, transient=True)
            return WorkResult(outcome, machine=self._machine)
        except UserError:
            raise
        # What Dask raises when its scheduler goes is of many kinds, and not always an Exception.
        except BaseException as error:
            if self._stop.is_set():
                raise Stopped from None
            if isinstance(error, _GONE):
                raise UserError(
                    "the connection to the cluster's scheduler was lost; when it is there "
                    "again, the same command goes on"
                ) from None
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"a worker of the cluster cannot work: {what}") from error
        refuse_full_disk(ending)
        self._machine = ending.machine
        return ending


class _Answer(Generic[T]):
    """Calls something that may never return; it is not waited for longer than one wants to."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._ask = ask
        threading.Thread(target=self._call, daemon=True).start()

    def _call(self) -> None:
        try:
            self._future.set_result(self._ask())
        except BaseException as error:
            self._future.set_exception(error)

    def wait(self, seconds: float) -> bool:
        """Tells whether it has returned, or raised something, after so many seconds."""
        return bool(concurrent.futures.wait([self._future], seconds).done)

    def result(self, seconds: float | None = None) -> T:
        """Returns what it returned or raises what it raised; TimeoutError after so many seconds."""
        return self._future.result(seconds)


def workers_of(client: Client) -> list[dict[str, Any]]:
    """Asks a scheduler for its workers."""
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def devices_of(workers: Iterable[dict[str, Any]]) -> frozenset[str]:
    """Returns the names of all resources that workers have."""
    return frozenset(name for one in workers for name, have in one["resources"].items() if have)
