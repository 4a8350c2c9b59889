"""The executor whose workers are those of a Dask cluster."""

import asyncio
import concurrent.futures
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Generic, TypeVar

from distributed import Client, Future, KilledWorker

from estimators.base.errors import UserError
from harness.cell import Cell
from harness.clusters import remote
from harness.clusters.remote import Order
from harness.matrix.outcome import Outcome, Status
from harness.running.processes import Limits, Stopped, WorkResult, refuse_full_disk

_POLL_EVERY = 0.5  # seconds
_PATIENCE = 5.0  # seconds, with a scheduler or workers that do not answer
_LEAST_IN_FLIGHT = 16  # for workers that join later
_LOST = (asyncio.CancelledError, concurrent.futures.CancelledError, OSError, TimeoutError)

T = TypeVar("T")


class Cluster:
    """Does work on the workers of a Dask cluster; see `Executor`.

    A piece of work requests one unit of the resource that is called like its cell's device, so
    that workers which have one unit of it never share the device. If a worker is lost, Dask gives
    its piece to another one.
    """

    def __init__(
        self,
        client: Client,
        *,
        where: str,
        workers: int,
        limits: Limits,
        plugins: tuple[str, ...],
        code: dict[str, Any],
        devices: frozenset[str],
        check: bool = True,
        timed_at_once: int | None = None,
    ) -> None:
        self.where, self.limits, self.workers = where, limits, workers
        self.timed_at_once = timed_at_once or workers
        self.in_flight = max(2 * workers, _LEAST_IN_FLIGHT)
        self._client = client
        self._order = Order(secrets.token_hex(8), limits, plugins, code, check)
        self._devices = devices
        self._stop = threading.Event()
        self._numbers = count()
        self._waiting: Counter[str] = Counter()  # pieces of work by device
        self._counting = threading.Lock()
        self._machine: dict[str, Any] | None = None  # environment of a worker

    def missing(self, device: str) -> str | None:
        """See `Executor`."""
        if device in self._devices:
            return None
        have = ", ".join(sorted(self._devices)) or "nothing"
        return f"no worker of the cluster has {device}; they have {have}"

    def start(self) -> None:
        """See `Executor`."""

    def reference(self, group: Cell) -> tuple[WorkResult, Future[remote.Reference]]:
        """See `Executor`; the reference stays on the workers."""
        reference = self._submit(remote.reference, self._order, group, device=group.device)
        # Short, so before all else, where the device is, whether it is free or not.
        result = self._client.submit(
            remote.result_of, reference, pure=False, priority=10, resources={group.device: 0}
        )
        return self._result(result, group.device), reference

    def score(self, cell: Cell, reference: Future[remote.Reference]) -> WorkResult:
        """See `Executor`."""
        work = self._submit(remote.score, self._order, cell, reference, device=cell.device)
        return self._result(work, cell.device)

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        """See `Executor`."""
        device = cells[0].device
        work = self._submit(remote.time, self._order, cells, samples, device=device)
        return self._result(work, device)

    def stop(self) -> None:
        """See `Executor`; does not wait for workers that do not answer."""
        self._stop.set()
        _Call(lambda: self._client.run(remote.stop, self._order.run)).wait(_PATIENCE)

    def obstacle(self) -> str:
        """See `Executor`."""
        try:
            workers = _Call(lambda: workers_of(self._client)).result(_PATIENCE)
        except _LOST:  # pieces of work find out for themselves whether that is for good
            return "the scheduler does not answer"
        available = devices_of(workers)
        with self._counting:
            lacking = sorted(device for device in +self._waiting if device not in available)
        return f"waiting for a worker that has {' and '.join(lacking)}" if lacking else ""

    def _submit(self, function: Callable[..., Any], *arguments: Any, device: str) -> Future[Any]:
        return self._client.submit(
            function,
            *arguments,
            key=f"{function.__name__}-{self._order.run}-{next(self._numbers)}",
            pure=False,
            resources={device: 1},
        )

    def _result(self, future: Future[WorkResult], device: str) -> WorkResult:
        """Wait for a piece of work.

        Raises:
            Stopped: `stop` was called.
            UserError: the scheduler is lost, or a worker cannot work.
        """
        with self._counting:
            self._waiting[device] += 1
        try:
            call = _Call(future.result)
            while not call.wait(_POLL_EVERY):
                if self._stop.is_set():
                    raise Stopped
            result = call.result()
        except (UserError, Stopped):
            raise
        except KilledWorker as error:
            lost = error.allowed_failures + 1
            reason = f"{lost} workers of the cluster were lost while they were at it"
            outcome = Outcome(Status.CRASHED, reason, transient=True)
            return WorkResult(outcome, machine=self._machine)
        # Dask raises errors of many kinds when its scheduler is lost, not always an Exception.
        except BaseException as error:
            if self._stop.is_set():
                raise Stopped from None
            if isinstance(error, _LOST):
                raise UserError(
                    "the connection to the cluster's scheduler was lost; when it is there "
                    "again, the same command goes on"
                ) from None
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"a worker of the cluster cannot work: {text}") from error
        finally:
            with self._counting:
                self._waiting[device] -= 1
        refuse_full_disk(result)
        self._machine = result.machine
        return result


class _Call(Generic[T]):
    """A call that may never return, in a daemon thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._function = function
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._function())
        except BaseException as error:
            self._future.set_exception(error)

    def wait(self, seconds: float) -> bool:
        """Return whether it ends within so many seconds."""
        return bool(concurrent.futures.wait([self._future], seconds).done)

    def result(self, seconds: float | None = None) -> T:
        """Return its result or raise its error; raise TimeoutError after so many seconds."""
        return self._future.result(seconds)


def workers_of(client: Client) -> list[dict[str, Any]]:
    """Return what a scheduler knows of its workers."""
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def devices_of(workers: Iterable[dict[str, Any]]) -> frozenset[str]:
    """Return the names of all resources that workers have."""
    return frozenset(
        name for worker in workers for name, units in worker["resources"].items() if units
    )
