"""What runs inside a worker process; one call a process."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from estimators import BilevelProblem, Estimator, Params
from estimators.differentiation import value_and_gradient
from estimators.options import Compilable
from estimators.tree import leaves, norm
from harness.cell import Cell
from harness.outcome import Diverged, Outcome, Status, outcome_of
from harness.plugins import load_plugins
from harness.probes.bias import Samples, measure_bias, save_reference
from harness.probes.flops import count_flops
from harness.probes.memory import peak_memory, profiled_peak
from harness.probes.resident import resident_growth
from harness.probes.time import Work, interleaved_times
from harness.problems import bilevel_problem, prepared_estimator


def call(
    plugins: tuple[str, ...], function: Callable[..., Any], *arguments: Any
) -> tuple[Outcome, Any]:
    """Runs one of the functions below as the only thing that its process does.

    Args:
        plugins: modules to import before; see `load_plugins`.
        function: what to run.
        *arguments: for it.

    Returns:
        How it ended, and what it returned. Exceptions are turned into outcomes here, since not
        every one can be sent to another process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which stops us
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    try:
        load_plugins(plugins)
        return Outcome(Status.OK), function(*arguments)
    except BaseException as error:  # SystemExit, too, is how an estimator can end
        return outcome_of(error), None


def _end_with_the_runner() -> None:
    runner = multiprocessing.parent_process()
    if runner is not None:
        runner.join()
        os._exit(1)


def reference(group: Cell, path: Path) -> None:
    """Computes what all cells of a group are scored against; see `save_reference`."""
    save_reference(group, path)


def score(cell: Cell, reference: Path) -> Samples:
    """Measures everything of a cell but time; to be called in a fresh process.

    Args:
        cell: the cell.
        reference: file of the group's exact meta-gradients.

    Returns:
        Samples by metric.

    Raises:
        Diverged: an estimate is not finite.
    """
    estimator = prepared_estimator(cell)
    problem, params = _first_task(cell)
    work = partial(estimator, problem, params)
    eager = estimator
    if isinstance(estimator, Compilable) and estimator.compiled:
        eager = replace(estimator, compiled=False)
        work()  # the compiler's own memory and time are not the estimate's
    samples: Samples = {}
    if cell.device == "cpu":
        samples["resident_memory"] = [resident_growth(work)]
    result = work()
    if not torch.isfinite(torch.tensor(norm(result.gradient))):
        raise Diverged("the estimate of task 0 is not finite")
    samples["hvps"] = [result.hvps]
    samples["serial_depth"] = [result.serial_depth]
    del result
    # Dispatch modes cannot look into a compiled program, whose products are the eager one's.
    hidden = eager is not estimator and cell.device == "cpu"
    peak = profiled_peak(work) if hidden else peak_memory(work, cell.device)
    samples["peak_memory"] = [peak]
    samples["flops"] = [count_flops(partial(eager, problem, params))]
    return samples | measure_bias(cell, estimator, reference)


def time_group(cells: list[Cell], samples: int) -> list[Samples]:
    """Times all cells of a group in turns, one inner gradient beside them.

    Args:
        cells: cells that differ in their estimator alone.
        samples: how many samples of each.

    Returns:
        Samples of "time" and "time_ratio", cell by cell.
    """
    problem, params = _first_task(cells[0])
    point = leaves(params)
    works: list[Work] = [partial(value_and_gradient, problem.inner_loss, point)]
    estimators: list[Estimator] = [prepared_estimator(cell) for cell in cells]
    works += [partial(estimator, problem, params) for estimator in estimators]
    unit, *times = interleaved_times(works, samples=samples, device=cells[0].device)
    return [
        {"time": mine, "time_ratio": [t / one for t, one in zip(mine, unit, strict=True)]}
        for mine in times
    ]


def _first_task(cell: Cell) -> tuple[BilevelProblem, Params]:
    return bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
