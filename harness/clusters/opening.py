"""Opens what a user has named to do the work: this machine, a Dask cluster, SLURM."""

import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from estimators.base.errors import OptionError
from harness.clusters.kind import Kind
from harness.running.executor import Opened
from harness.running.local import Local
from harness.running.settings import Settings
from harness.support.signals import delay_signals, ignore_signals


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
    before = signal.getsignal(signal.SIGINT)
    try:
        from harness.clusters import dask
    except ImportError as error:
        raise OptionError(
            f"--executor {kind} needs {error.name}: pip install 'metagrad-bench[dask]'"
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)  # which dask_jobqueue takes when it is imported
    if kind is Kind.SLURM:
        cluster = dask.from_slurm(settings, devices, dry=dry)
    elif scheduler is None:
        cluster = dask.on_this_machine(settings, devices, dry=dry)
    else:
        cluster = dask.running(settings, scheduler)
    stack = ExitStack()
    try:
        with delay_signals():  # half a cluster could not be closed, and jobs would not be cancelled
            found = stack.enter_context(cluster)
        yield found  # ruff: ignore[unnecessary-assign-before-yield] (Ctrl-C is let through)
    finally:
        with ignore_signals():
            stack.close()
