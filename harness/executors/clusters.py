"""Dask clusters: one that runs already, one on this machine, one of jobs that SLURM runs."""

import logging
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.utils import silence_logging_cmgr

from estimators.errors import OptionError
from harness.devices import missing_device
from harness.environment import environment
from harness.executors.cluster import Cluster, devices_of, least_memory
from harness.executors.remote import code_of
from harness.running.processes import Limits, worker_memory
from harness.running.settings import Settings

Found = tuple[Cluster, str, str]
"""The executor, where it is in a few words, and the script of each job of SLURM's."""

_CONNECT = 10.0  # seconds
_LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
_JOB = {"cores": 1, "memory": "8 GiB"}  # where the user's configuration of Dask tells nothing


@contextmanager
def running(settings: Settings, address: str) -> Generator[Found]:
    """Connects to a scheduler that runs.

    Args:
        settings: how to run; `jobs` does not matter.
        address: as tcp://10.0.0.1:8786.

    Yields:
        What does the work.

    Raises:
        OptionError: no scheduler answers, or it has no worker.
    """
    try:
        client = Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        why = " ".join(str(error).split())
        raise OptionError(f"no Dask scheduler answers at {address}: {why}") from None
    with client, silence_logging_cmgr(logging.CRITICAL, root="distributed.client"):
        devices, count = devices_of(client), len(client.scheduler_info(n_workers=-1)["workers"])
        if not devices:
            raise OptionError(
                f"of the {count} workers of {address} none names its device; start them as "
                f"`dask worker {address} --no-nanny --nthreads 1 --resources cpu=1`, or cuda:0=1"
            )
        memory = settings.memory_limit or least_memory(client) or worker_memory(1)
        limits = Limits(settings.time_limit, memory)
        yield (
            _cluster(client, count, settings, limits, devices),
            f"{count} workers at {address}",
            "",
        )


@contextmanager
def on_this_machine(settings: Settings, devices: tuple[str, ...], *, dry: bool) -> Generator[Found]:
    """Starts a scheduler and workers here: one for each GPU that is wanted, others for the CPU.

    Args:
        settings: how to run; `jobs` workers have the CPU.
        devices: that are wanted.
        dry: start no worker.

    Yields:
        What does the work.
    """
    there = [device for device in dict.fromkeys(devices) if not missing_device(device)]
    names = [device for device in there for _ in range(settings.jobs if device == "cpu" else 1)]
    workers = {
        f"{device}-{number}": {
            "cls": Nanny,
            "options": {
                **_LOOPBACK,
                "nthreads": 1,
                "resources": {device: 1},
                "memory_limit": 0,
                "silence_logs": logging.CRITICAL,
            },
        }
        for number, device in enumerate(names)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {**_LOOPBACK, "port": 0, "dashboard": False},
    }
    # They start processes of their own.
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        SpecCluster(
            workers={} if dry else workers, scheduler=scheduler, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        memory = settings.memory_limit or worker_memory(len(names))
        limits = Limits(settings.time_limit, memory)
        where = f"{len(names)} workers on this machine"
        yield _cluster(client, len(names), settings, limits, frozenset(there)), where, ""


@contextmanager
def from_slurm(settings: Settings, devices: tuple[str, ...], *, dry: bool) -> Generator[Found]:
    """Starts a scheduler here, and has SLURM run workers, each in a job of its own.

    Queue, account, wall time and all else of a job are those of jobqueue.slurm in the user's
    configuration of Dask.

    Args:
        settings: how to run; `jobs` is how many jobs there are.
        devices: that are wanted: either "cpu" or "cuda:0".
        dry: hand in no job.

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
    # Nannies are not used: their workers may not start processes.
    with (
        SLURMCluster(
            cores=cores,
            memory=memory,
            processes=1,
            nanny=False,
            worker_extra_args=[*config["worker-extra-args"], "--resources", f"{device}=1"],
            job_extra_directives=[*config["job-extra-directives"], *extra],
            scheduler_options={"dashboard_address": ":0"} | config["scheduler-options"],
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        script = cluster.job_script()
        if not dry:
            _check_with_slurm(script)
            cluster.scale(jobs=settings.jobs)
        found = _cluster(client, settings.jobs, settings, limits, frozenset({device}))
        yield found, f"{settings.jobs} jobs of SLURM", script


def _check_with_slurm(script: str) -> None:
    """Has SLURM look at the script of a job: what it finds when jobs are handed in is lost.

    Raises:
        OptionError: there is no SLURM, or it does not take such a job.
    """
    try:
        subprocess.run(
            ["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise OptionError(
            "there is no sbatch here: SLURM takes jobs on a machine that has it"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        raise OptionError(f"SLURM does not take the jobs: {' '.join(told.split())}") from None


def _cluster(
    client: Client, workers: int, settings: Settings, limits: Limits, devices: frozenset[str]
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
    )


def _share(memory: str) -> float:
    """Returns most of a job's memory, of which its worker wants a little itself."""
    return 0.9 * float(dask.utils.parse_bytes(memory))
