"""Opens what a user has named to do the work: this machine, a Dask cluster, SLURM."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from estimators.errors import OptionError
from harness.executors.executor import Executor
from harness.executors.kind import Kind
from harness.executors.local import Local
from harness.running.interruption import held_back, ignored
from harness.running.settings import Settings


@dataclass(frozen=True)
class Opened:
    """An executor that is open.

    Attributes:
        executor: it.
        where: it, in a few words, for a cluster.
        script: that SLURM is given for each job; "" if it is not asked.
    """

    executor: Executor
    where: str = ""
    script: str = ""


@contextmanager
def opened(
    kind: Kind,
    settings: Settings,
    devices: tuple[str, ...],
    *,
    scheduler: str | None = None,
    dry: bool = False,
) -> Generator[Opened]:
    """Opens an executor, and closes it afterwards.

    Args:
        kind: which.
        settings: how to run.
        devices: that cells ask for.
        scheduler: address of a running Dask scheduler; a cluster on this machine if None.
        dry: no worker is started, here or by SLURM.

    Yields:
        The executor and what is to be told of it.

    Raises:
        OptionError: it cannot be had.
    """
    if scheduler is not None and kind is not Kind.DASK:
        raise OptionError(f"--scheduler goes with --executor dask, not with {kind}")
    if kind is Kind.LOCAL:
        with Local(settings) as local:
            yield Opened(local)
        return
    try:
        from harness.executors import clusters
    except ImportError as error:
        raise OptionError(
            f"--executor {kind} needs {error.name}: pip install 'metagrad-bench[dask]'"
        ) from None
    if kind is Kind.SLURM:
        cluster = clusters.from_slurm(settings, devices, dry=dry)
    elif scheduler is None:
        cluster = clusters.on_this_machine(settings, devices, dry=dry)
    else:
        cluster = clusters.running(settings, scheduler)
    stack = ExitStack()
    try:
        with held_back():  # half a cluster could not be closed, and jobs would not be cancelled
            executor, where, script = stack.enter_context(cluster)
        yield Opened(executor, where, script)
    finally:
        with ignored():
            stack.close()
