"""The functions that Dask workers run: one piece of work at a time, in a fresh process."""

import math
import multiprocessing
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from distributed import get_worker

from estimators.base.errors import UserError
from harness.cell import Cell
from harness.environment import code_state, environment
from harness.environment.code import source
from harness.matrix.outcome import Status
from harness.running import measures
from harness.running.processes import Limits, WorkResult, run_in_worker
from harness.support.files import temporary_folder

_SOURCE = source()  # as imported; files may change while a worker lives
_INSPECTION = Limits(seconds=600.0, memory=math.inf)  # of the machine, which starts much else first
_stops: defaultdict[str, threading.Event] = defaultdict(threading.Event)

Code = dict[str, Any]
Reference = tuple[WorkResult, bytes]
"""How the computation of a reference ended, and the content of its file."""


@dataclass(frozen=True)
class Order:
    """The part of a request that is the same for all pieces of work of a run.

    Attributes:
        run: a random name.
        limits: of a piece of work.
        plugins: modules to import first; see `load_plugins`.
        code: that the worker must have too; see `code_of`.
        check: see `harness.running.executor.Settings`.
    """

    run: str
    limits: Limits
    plugins: tuple[str, ...]
    code: Code
    check: bool = True


def code_of(environment: dict[str, Any]) -> Code:
    """Return the part of an environment that must be the same on all machines of a run."""
    same = ("source", "plugins", "packages", "python")
    return {key: environment[key] for key in same} | {"torch": environment["torch"].get("version")}


def reference(order: Order, group: Cell) -> Reference:
    """Compute what the cells of a group are scored against."""
    with _temporary_file() as path:
        result = _work(order, measures.reference, group, path, order.check)
        return result, path.read_bytes() if result.outcome.status is Status.OK else b""


def result_of(reference: Reference) -> WorkResult:
    """Return how a reference ended; its content stays on the worker."""
    return reference[0]


def score(order: Order, cell: Cell, reference: Reference) -> WorkResult:
    """Measure everything of a cell except time."""
    result, content = reference
    if result.outcome.status is not Status.OK:  # computed again after a loss, and failed this time
        return result
    with _temporary_file() as path:
        path.write_bytes(content)
        return _work(order, measures.score, cell, path)


def time(order: Order, cells: list[Cell], samples: int) -> WorkResult:
    """Time the cells of a group in turns."""
    return _work(order, measures.time_group, cells, samples)


def stop(run: str) -> None:
    """End the current piece of work of a run on this worker."""
    _stops[run].set()


@contextmanager
def _temporary_file() -> Generator[Path]:
    """Yield the path of a temporary file.

    Raises:
        UserError: it cannot be written here.
    """
    try:
        with tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
            yield Path(folder) / "reference.pt"
    except OSError as error:
        raise UserError(f"{_here()} cannot write a temporary file: {error}") from None


def _work(order: Order, function: Callable[..., Any], *arguments: Any) -> WorkResult:
    machine = _machine(order.run, order.plugins)
    _refuse_other_code(order.code, code_of(machine))
    result = run_in_worker(
        function,
        *arguments,
        limits=order.limits,
        plugins=order.plugins,
        stop=_stops[order.run],
    )
    return replace(result, machine=machine)


@lru_cache(maxsize=4)
def _machine(run: str, plugins: tuple[str, ...]) -> dict[str, Any]:
    """Return the environment of the processes here that do this run's pieces of work.

    Raises:
        UserError: no process can be started here, or none that can import the plug-ins.
    """
    if multiprocessing.current_process().daemon:
        raise UserError(
            f"{_here()} may not start processes; start it with --no-nanny, or with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False"
        )
    result = run_in_worker(environment, None, plugins, limits=_INSPECTION, plugins=plugins)
    if result.outcome.status is not Status.OK:
        raise UserError(f"{_here()} cannot work: {result.outcome.reason}")
    machine: dict[str, Any] = result.value
    if machine["source"] != _SOURCE:
        raise UserError(f"the code has changed since {_here()} was started: start it again")
    # Two workers of a machine may have other threads, variables or drivers.
    return machine | {"state": code_state(machine)}


def _refuse_other_code(wanted: Code, here: Code) -> None:
    different = [key for key, value in wanted.items() if here[key] != value]
    if not different:
        return
    first, details = different[0], ""
    if isinstance(wanted[first], dict):
        names = sorted(wanted[first].keys() | here[first].keys())
        pairs = [(name, wanted[first].get(name), here[first].get(name)) for name in names]
        details = ", ".join(f"{name} is {b}, not {a}" for name, a, b in pairs if a != b)
    elif first != "source":
        details = f"{here[first]}, not {wanted[first]}"
    raise UserError(
        f"{_here()} has another {' and '.join(different)} than this machine"
        + (f" ({details})" if details else "")
        + "; all machines of a run must have the same"
    )


def _here() -> str:
    return f"the worker at {get_worker().address}"
