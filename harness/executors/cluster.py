"""The workers of a Dask cluster."""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from distributed import Client, Future, KilledWorker

from estimators.errors import OptionError
from harness.cell import Cell
from harness.executors import remote
from harness.executors.remote import Order
from harness.outcome import Outcome, Status
from harness.running.processes import Ending, Limits, Stopped, refuse_full_disk

_LOOK_EVERY = 0.5  # seconds
_LEAST_IN_FLIGHT = 16  # for workers that come later


class Cluster:
    """Does work on the workers of a Dask cluster; see `Executor`.

    A piece of work asks for one unit of the resource that is called like its cell's device, so
    that workers which have one unit of it never share the device. A piece whose worker is lost is
    done again by another.

    Args:
        client: connected to the scheduler.
        workers: how many there will be, about.
        limits: what a piece of work may take.
        plugins: modules that are imported before.
        code: see `harness.executors.remote.code_of`.
        devices: that workers have; more may come.
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
    ) -> None:
        self.limits = limits
        self.workers = self.timed_at_once = workers
        self.in_flight = max(2 * workers, _LEAST_IN_FLIGHT)
        self._client = client
        self._order = Order(secrets.token_hex(8), limits, plugins, code)
        self._devices = devices
        self._stop = threading.Event()
        self._numbers = count()
        self._wanted: Counter[str] = Counter()
        self._counting = threading.Lock()

    def missing(self, device: str) -> str | None:
        """See `Executor`."""
        if device in self._devices:
            return None
        have = ", ".join(sorted(self._devices)) or "nothing"
        return f"no worker of the cluster has {device}; they have {have}"

    def ready(self) -> None:
        """See `Executor`."""

    def reference(self, group: Cell) -> tuple[Ending, Future[remote.Made]]:
        """See `Executor`; the reference stays on the workers."""
        made = self._submit(remote.reference, self._order, group, cell=group)
        with self._wanting(group.device):
            # It needs no device, and is quick: before all else.
            told = self._client.submit(remote.told, made, pure=False, priority=10)
            return self._ending(told), made

    def score(self, cell: Cell, reference: Future[remote.Made]) -> Ending:
        """See `Executor`."""
        with self._wanting(cell.device):
            return self._ending(self._submit(remote.score, self._order, cell, reference, cell=cell))

    def time(self, cells: list[Cell], samples: int) -> Ending:
        """See `Executor`."""
        with self._wanting(cells[0].device):
            return self._ending(
                self._submit(remote.time, self._order, cells, samples, cell=cells[0])
            )

    def stop(self) -> None:
        """See `Executor`."""
        self._stop.set()
        with suppress(OSError, TimeoutError, RuntimeError):  # the scheduler may be what is gone
            self._client.run(remote.stop, self._order.run, on_error="ignore")

    def trouble(self) -> str:
        """See `Executor`."""
        if self._client.status != "running":
            return "the scheduler does not answer"
        have = devices_of(self._client)
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

    def _ending(self, future: Future[Ending]) -> Ending:
        """Waits for a piece of work.

        Raises:
            Stopped: `stop` was called.
            OptionError: the scheduler is gone, or a worker cannot work.
        """
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(_LOOK_EVERY):
            if self._stop.is_set():
                raise Stopped
        if future.status in ("cancelled", "lost"):
            if self._stop.is_set():
                raise Stopped
            raise OptionError(
                "the connection to the cluster's scheduler was lost; when it is there "
                "again, the same command goes on"
            )
        try:
            ending = future.result()
        except KilledWorker as error:
            deaths = error.allowed_failures + 1
            reason = f"{deaths} workers of the cluster were lost while they were at it"
            return Ending(Outcome(Status.CRASHED, reason))
        refuse_full_disk(ending)
        return ending


def devices_of(client: Client) -> frozenset[str]:
    """Returns the names of all resources that workers of a cluster have.

    Args:
        client: connected to its scheduler.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return frozenset(name for one in workers for name, have in one["resources"].items() if have)


def least_memory(client: Client) -> float | None:
    """Returns the least bytes of memory that a worker of a cluster has; None if none tells.

    Args:
        client: connected to its scheduler.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return min((one["memory_limit"] for one in workers if one["memory_limit"]), default=None)
