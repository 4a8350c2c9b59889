"""Open the executor that a user names: this machine or a Dask cluster."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from estimators.base.errors import OptionError
from harness.running.executor import Executor, Settings
from harness.running.local import Local
from harness.support.signals import delay_signals, ignore_signals


@contextmanager
def open_executor(
    name: str,
    settings: Settings,
    devices: tuple[str, ...],
    *,
    scheduler: str | None = None,
    dry_run: bool = False,
) -> Generator[Executor]:
    """Open the executor "local" or "dask" and close it afterwards.

    Yields:
        The executor.

    Raises:
        OptionError: a scheduler does not go with it, or its packages are missing.
    """
    if name == "local":
        if scheduler is not None:
            raise OptionError("--scheduler goes with --executor dask")
        with Local(settings) as local:
            yield local
        return
    try:
        from harness.clusters import dask
    except ImportError as error:
        raise OptionError(
            f"--executor {name} needs {error.name}: pip install 'metagrad-bench[dask]'"
        ) from None
    if scheduler is None:
        cluster = dask.start_cluster(settings, devices, dry_run=dry_run)
    else:
        cluster = dask.connect(settings, scheduler)
    stack = ExitStack()
    try:
        with delay_signals():  # a cluster that is half started could not be closed
            executor = stack.enter_context(cluster)
        yield executor  # ruff: ignore[unnecessary-assign-before-yield] (Ctrl-C is let through)
    finally:
        with ignore_signals():
            stack.close()
