"""What a Dask worker does: one piece of work at a time, in a fresh process of its machine."""

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

_SOURCE = source()  # as it is imported here; files may change while a worker lives
_LOOKING = Limits(seconds=600.0, memory=math.inf)  # at the machine, which starts much else first
_stops: defaultdict[str, threading.Event] = defaultdict(threading.Event)

Code = dict[str, Any]
Made = tuple[WorkResult, bytes]
"""How the reference of a group ended, and its file's content."""


@dataclass(frozen=True)
class Order:
    """What comes with each piece of work.

    Attributes:
        run: a name that no other run has.
        limits: what the piece may take.
        plugins: modules that are imported before; see `load_plugins`.
        code: what the worker has to have, too; see `code_of`.
    """

    run: str
    limits: Limits
    plugins: tuple[str, ...]
    code: Code


def code_of(made_with: dict[str, Any]) -> Code:
    """Returns what has to be the same on all machines of a run."""
    same = ("source", "plugins", "packages", "python")
    return {name: made_with[name] for name in same} | {"torch": made_with["torch"].get("version")}


def reference(order: Order, group: Cell) -> Made:
    """Computes what the cells of a group are scored against."""
    with _reference_file() as path:
        ending = _work(order, measures.reference, group, path)
        return ending, path.read_bytes() if ending.outcome.status is Status.OK else b""


def told(made: Made) -> WorkResult:
    """Returns how a reference ended, which is all that has to leave the worker."""
    return made[0]


def score(order: Order, cell: Cell, made: Made) -> WorkResult:
    """Measures everything of a cell but time."""
    ending, content = made
    if ending.outcome.status is not Status.OK:  # computed again, after a loss, with less luck
        return ending
    with _reference_file() as path:
        path.write_bytes(content)
        return _work(order, measures.score, cell, path)


def time(order: Order, cells: list[Cell], samples: int) -> WorkResult:
    """Times the cells of a group in turns."""
    return _work(order, measures.time_group, cells, samples)


def stop(run: str) -> None:
    """Ends the piece of work of a run that this worker is at."""
    _stops[run].set()


@contextmanager
def _reference_file() -> Generator[Path]:
    """Yields the name of a file that is gone afterwards.

    Raises:
        UserError: it cannot be written here.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="metagrad-") as folder:
            yield Path(folder) / "reference.pt"
    except OSError as error:
        raise UserError(f"{_here()} cannot keep a file for a while: {error}") from None


def _work(order: Order, function: Callable[..., Any], *arguments: Any) -> WorkResult:
    how: dict[str, Any] = {"limits": order.limits, "plugins": order.plugins}
    machine = _machine(order.run, order.plugins)
    _refuse_other_code(order.code, code_of(machine))
    ending = run_in_worker(function, *arguments, **how, stop=_stops[order.run])
    return replace(ending, machine=machine)


@lru_cache(maxsize=4)
def _machine(run: str, plugins: tuple[str, ...]) -> dict[str, Any]:
    """Returns the environment here, as a process finds it that does a piece of this run's work.

    Raises:
        UserError: no process can be started here, or none that has the plug-ins.
    """
    if multiprocessing.current_process().daemon:
        raise UserError(
            f"{_here()} may not start processes of its own; start it with --no-nanny, or with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False"
        )
    ending = run_in_worker(environment, None, plugins, limits=_LOOKING, plugins=plugins)
    if ending.outcome.status is not Status.OK:
        raise UserError(f"{_here()} cannot work: {ending.outcome.reason}")
    found: dict[str, Any] = ending.value
    if found["source"] != _SOURCE:
        raise UserError(f"the code has changed since {_here()} was started: start it anew")
    # Two workers of a machine may have other threads, variables or drivers.
    return found | {"state": code_state(found)}


def _refuse_other_code(wanted: Code, here: Code) -> None:
    other = [name for name, value in wanted.items() if here[name] != value]
    if not other:
        return
    first = other[0]
    told = ""
    if isinstance(wanted[first], dict):
        names = sorted(wanted[first].keys() | here[first].keys())
        pairs = [(n, wanted[first].get(n), here[first].get(n)) for n in names]
        told = ", ".join(f"{n} is {b}, not {a}" for n, a, b in pairs if a != b)
    elif first != "source":
        told = f"{here[first]}, not {wanted[first]}"
    raise UserError(
        f"{_here()} has another {' and '.join(other)} than this machine"
        + (f" ({told})" if told else "")
        + "; all machines of a run must have the same"
    )


def _here() -> str:
    return f"the worker at {get_worker().address}"
