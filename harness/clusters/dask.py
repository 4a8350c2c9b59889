"""Dask clusters: one that already runs, or one on this machine."""

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.security import Security

from estimators.base.errors import OptionError, UserError
from harness.clusters.cluster import Cluster, devices_of, workers_of
from harness.clusters.remote import code_of
from harness.environment import environment
from harness.environment.gpus import missing_device
from harness.running.executor import Settings
from harness.running.processes import Limits, fresh_processes, start_fork_server, worker_memory
from harness.support.files import temporary_folder

# Their messages are raised as errors of the command, or do not matter.
for _name in ("distributed", "distributed.client", "tornado.application"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

_CONNECT = 10.0  # seconds
_PROTOCOLS = ("tcp", "tls", "ucx", "ws", "wss")
_LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


@contextmanager
def connect(settings: Settings, address: str) -> Generator[Cluster]:
    """Connect to a scheduler.

    Yields:
        The executor.

    Raises:
        OptionError: the address is malformed.
        UserError: no scheduler answers, or none of its workers names its device.
    """
    protocol, separator, _ = address.rpartition("://")
    if separator and protocol not in _PROTOCOLS:
        raise OptionError(f"--scheduler {address}: write it as tcp://10.0.0.1:8786")
    try:
        client = Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no Dask scheduler answers at {address}: {reason}") from None
    with client:
        workers = workers_of(client)
        if not (devices := devices_of(workers)):
            raise UserError(
                f"none of the {len(workers)} workers of {address} names its device; start them as "
                f"`dask worker {address} --no-nanny --nthreads 1 --resources cpu=1`, or cuda:0=1"
            )
        least = min((one["memory_limit"] for one in workers if one["memory_limit"]), default=None)
        memory = settings.memory_limit or least or worker_memory(1)
        yield Cluster(
            client,
            where=f"{len(workers)} workers at {address}",
            workers=len(workers),
            limits=Limits(settings.time_limit, memory),
            plugins=settings.plugins,
            code=code_of(environment(plugins=settings.plugins)),
            check=settings.check,
            devices=devices,
        )


@contextmanager
def start_cluster(
    settings: Settings, devices: tuple[str, ...], *, dry_run: bool
) -> Generator[Cluster]:
    """Start a scheduler and workers on this machine: one for each GPU, the others for the CPU.

    Yields:
        The executor.

    Raises:
        UserError: they cannot be started.
    """
    usable = [device for device in dict.fromkeys(devices) if not missing_device(device)]
    names = [device for device in usable for _ in range(settings.jobs if device == "cpu" else 1)]
    security = Security.temporary()  # or other users of this machine could run code
    workers = {
        f"{device}-{number}": {
            "cls": Nanny,
            "options": {
                **_LOOPBACK,
                "nthreads": 1,
                "resources": {device: 1},
                "memory_limit": 0,
                "silence_logs": logging.CRITICAL,
                "security": security,
            },
        }
        for number, device in enumerate(names)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {**_LOOPBACK, "port": 0, "protocol": "tls://", "security": security},
    }
    config = {
        "temporary-directory": str(temporary_folder()),
        "distributed.worker.daemon": False,  # or they could not start processes
        "distributed.worker.multiprocessing-method": fresh_processes().get_start_method(),
        "distributed.nanny.pre-spawn-environ": {},  # which changes how fast memory is allocated
    }
    with dask.config.set(config), ExitStack() as stack:
        try:
            start_fork_server()  # out of reach of Ctrl-C, like all that it forks
            cluster = stack.enter_context(
                SpecCluster(
                    {} if dry_run else workers,
                    scheduler=scheduler,
                    security=security,
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except (OSError, RuntimeError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"no Dask workers can be started here: {reason}") from None
        memory = settings.memory_limit or worker_memory(max(len(names), 1))
        yield Cluster(
            client,
            where=f"{len(names)} workers on this machine",
            workers=len(names),
            limits=Limits(settings.time_limit, memory),
            plugins=settings.plugins,
            code=code_of(environment(plugins=settings.plugins)),
            check=settings.check,
            devices=frozenset(usable),
            # The CPU is timed with nothing beside; GPUs need one core each at most.
            timed_at_once=1 if "cpu" in usable else max(len(usable), 1),
        )
