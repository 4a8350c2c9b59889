"""Worker processes: how they start, and how they end when they cannot tell it themselves."""

import multiprocessing
import signal
from multiprocessing.context import BaseContext

from pebble import ProcessExpired

from harness.outcome import Outcome, Status, outcome_of


def fresh_processes() -> BaseContext:
    """Returns a context whose workers are fresh processes in which torch is imported already.

    There is one fork server to a process, and so one list of what it imports, for all users.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # torch imports the second one, for a second, at the first use of a dispatch mode.
    context.set_forkserver_preload(["harness.worker", "torch._dynamo"])
    return context


def violent_end(error: BaseException, limit: float) -> Outcome:
    """Names the way in which a worker ended that could not tell it itself.

    Args:
        error: what its future raised.
        limit: seconds that it had.
    """
    if isinstance(error, TimeoutError):
        return Outcome(Status.TIMEOUT, f"not done after {limit:g} s")
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        names = {-int(number): number.name for number in signal.Signals}
        how = names.get(code, f"exit code {code}") if code is not None else "unknown means"
        return Outcome(Status.CRASHED, f"the worker process ended by {how}")
    return outcome_of(error)
