"""Dask clusters: one that runs already, one on this machine, one of jobs that SLURM runs."""

import logging
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.security import Security

from estimators.base.errors import OptionError
from harness.clusters.remote import code_of
from harness.clusters.workers import Cluster, devices_of, workers_of
from harness.environment import environment
from harness.environment.devices import missing_device
from harness.running.executor import Opened
from harness.running.processes import Limits, fresh_processes, start_fork_server, worker_memory
from harness.running.settings import Settings

# What these would log is told as an error of the command, or is no trouble.
for _name in ("distributed", "distributed.client", "tornado.application"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

_CONNECT = 10.0  # seconds
_ANSWERS = 60.0  # seconds, in which SLURM does
_PROTOCOLS = ("tcp", "tls", "ucx", "ws", "wss")
_LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
_JOB = {"cores": 1, "memory": "8 GiB"}  # where the user's configuration of Dask tells nothing


@contextmanager
def running(settings: Settings, address: str) -> Generator[Opened]:
    """Connects to a scheduler that runs.

    Yields:
        What does the work.

    Raises:
        OptionError: no scheduler answers, or it has no worker.
    """
    kind, there, _ = address.rpartition("://")
    if there and kind not in _PROTOCOLS:
        raise OptionError(f"--scheduler {address}: write it as tcp://10.0.0.1:8786")
    try:
        client = Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise OptionError(f"no Dask scheduler answers at {address}: {why}") from None
    with client:
        workers = workers_of(client)
        devices, count = devices_of(workers), len(workers)
        if not devices:
            raise OptionError(
                f"of the {count} workers of {address} none names its device; start them as "
                f"`dask worker {address} --no-nanny --nthreads 1 --resources cpu=1`, or cuda:0=1"
            )
        told = min((one["memory_limit"] for one in workers if one["memory_limit"]), default=None)
        memory = settings.memory_limit or told or worker_memory(1)
        limits = Limits(settings.time_limit, memory)
        found = _cluster(client, count, settings, limits, devices)
        yield Opened(found, f"{count} workers at {address}")


@contextmanager
def on_this_machine(
    settings: Settings, devices: tuple[str, ...], *, dry: bool
) -> Generator[Opened]:
    """Starts a scheduler and workers here: one for each GPU that is wanted, others for the CPU.

    Yields:
        What does the work.

    Raises:
        OptionError: they cannot be started.
    """
    there = [device for device in dict.fromkeys(devices) if not missing_device(device)]
    names = [device for device in there for _ in range(settings.jobs if device == "cpu" else 1)]
    security = Security.temporary()  # other users of this machine could give orders
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
        "distributed.worker.daemon": False,  # they start processes of their own
        "distributed.worker.multiprocessing-method": fresh_processes().get_start_method(),
        "distributed.nanny.pre-spawn-environ": {},  # which changes how fast memory is given out
    }
    how: dict[str, Any] = {"scheduler": scheduler, "security": security}
    limits = Limits(settings.time_limit, settings.memory_limit or worker_memory(max(len(names), 1)))
    with dask.config.set(config), ExitStack() as stack:
        try:
            start_fork_server()  # out of reach of Ctrl-C, like all that it forks
            cluster = stack.enter_context(
                SpecCluster({} if dry else workers, silence_logs=logging.CRITICAL, **how)
            )
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except (OSError, RuntimeError, TimeoutError) as error:
            why = " ".join(str(error).split())
            raise OptionError(f"no Dask workers can be started here: {why}") from None
        found = _cluster(
            client,
            len(names),
            settings,
            limits,
            frozenset(there),
            # The CPU is timed with the machine for itself; cards wait for a core each at most.
            timed_at_once=1 if "cpu" in there else max(len(there), 1),
        )
        yield Opened(found, f"{len(names)} workers on this machine")


@contextmanager
def from_slurm(settings: Settings, devices: tuple[str, ...], *, dry: bool) -> Generator[Opened]:
    """Starts a scheduler here, and has SLURM run workers, each in a job of its own.

    Queue, account, wall time and all else of a job are those of jobqueue.slurm in the user's
    configuration of Dask.

    Yields:
        What does the work.

    Raises:
        OptionError: more than one device is wanted, or SLURM does not take the jobs.
    """
    if set(devices) not in ({"cpu"}, {"cuda:0"}):
        raise OptionError(
            "a job of SLURM has one device: measure with --device cpu and with --device cuda:0, "
            "one after the other"
        )
    (device,) = set(devices)
    config: dict[str, Any] = dask.config.get("jobqueue.slurm")
    cores, memory = (config[name] or default for name, default in _JOB.items())
    extra = ["--gres=gpu:1"] if device == "cuda:0" else []
    limits = Limits(settings.time_limit, settings.memory_limit or _share(str(memory)))
    with (
        SLURMCluster(
            cores=cores,
            memory=memory,
            processes=1,
            nanny=False,  # whose workers may not start processes
            worker_extra_args=[*config["worker-extra-args"], "--resources", f"{device}=1"],
            job_extra_directives=[*config["job-extra-directives"], *extra],
            scheduler_options={"dashboard_address": ":0"} | config["scheduler-options"],
            protocol="tls://",  # whoever could reach the scheduler could give orders
            security=Security.temporary(),
            # For the keys of workers: jobs begin in this folder, too.
            shared_temp_directory=config["shared-temp-directory"] or str(Path.cwd()),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        script = cluster.job_script()
        hand_in = partial(cluster.scale, jobs=settings.jobs)  # those that are not there yet
        if not dry:
            _check_with_slurm(script)
            hand_in()
        found = _cluster(
            client, settings.jobs, settings, limits, frozenset({device}), renew=hand_in
        )
        yield Opened(found, f"{settings.jobs} jobs of SLURM", script)


def _check_with_slurm(script: str) -> None:
    """Has SLURM look at the script of a job: what it finds when jobs are handed in is lost.

    Raises:
        OptionError: there is no SLURM, or it does not take such a job.
    """
    try:
        subprocess.run(
            ["sbatch", "--test-only"],
            input=script,
            capture_output=True,
            text=True,
            check=True,
            timeout=_ANSWERS,
        )
    except FileNotFoundError:
        raise OptionError(
            "there is no sbatch here: SLURM takes jobs on a machine that has it"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        raise OptionError(f"SLURM does not take the jobs: {' '.join(told.split())}") from None


def _cluster(
    client: Client,
    workers: int,
    settings: Settings,
    limits: Limits,
    devices: frozenset[str],
    **how: Any,
) -> Cluster:
    # The workers are in other folders.
    plugins = (str(Path(one).resolve()) if one.endswith(".py") else one for one in settings.plugins)
    return Cluster(
        client,
        workers=workers,
        limits=limits,
        plugins=tuple(plugins),
        code=code_of(environment(plugins=settings.plugins)),
        devices=devices,
        **how,
    )


def _share(memory: str) -> float:
    """Returns most of a job's memory, of which its worker wants a little itself."""
    return 0.9 * float(dask.utils.parse_bytes(memory))
