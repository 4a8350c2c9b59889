"""What is measured of a cell, each in a worker process of its own."""

import operator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from estimators import BilevelProblem, Params
from estimators.base.differentiation import value_and_gradient
from estimators.base.phases import Phase
from estimators.base.tree import leaves, norm
from estimators.methods.options import Compilable
from harness.cell import Cell
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Diverged
from harness.matrix.problems import bilevel_problem, prepared_estimator
from harness.probes.bias import measure_bias
from harness.probes.flops import count_flops
from harness.probes.launches import count_launches
from harness.probes.memory import baseline_memory, peak_and_retained, profiled_peak, reserved_memory
from harness.probes.references import save_reference
from harness.probes.resident import resident_growth
from harness.probes.time import Timing, Work, interleaved_times
from harness.probes.utilisation import utilisation
from harness.running.worker import begin_part

_PHASES = {
    Phase.INNER_LOOP: "time_inner_loop",
    Phase.OUTER_GRADIENT: "time_outer_gradient",
    Phase.META_GRADIENT: "time_meta_gradient",
}


def reference(group: Cell, path: Path) -> None:
    """Computes what all cells of a group are scored against; see `save_reference`."""
    save_reference(group, path)


def score(cell: Cell, reference: Path) -> Samples:
    """Measures everything of a cell but time; to be called in a fresh process.

    Returns:
        Samples by metric.

    Raises:
        Diverged: an estimate or the outer loss is not finite.
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
    for what, size in (("estimate", norm(result.gradient)), ("outer loss", result.outer_loss)):
        if not torch.isfinite(torch.as_tensor(size)):
            raise Diverged(f"the {what} of task 0 is not finite")
    # An estimator may count in numbers of numpy or torch, or return what is no number at all.
    samples["hvps"] = [operator.index(result.hvps)]
    samples["serial_depth"] = [operator.index(result.serial_depth)]
    del result
    samples["baseline_memory"] = [baseline_memory(lambda: _first_task(cell), cell.device)]
    # Dispatch modes cannot look into a compiled program, whose products are the eager one's.
    hidden = eager is not estimator
    if hidden and cell.device == "cpu":
        samples["peak_memory"] = [profiled_peak(work)]
    else:
        peak, retained = peak_and_retained(work, cell.device)
        samples |= {"peak_memory": [peak], "retained_memory": [retained]}
    if cell.device != "cpu":
        samples["reserved_memory"] = [reserved_memory(work, cell.device)]
    eager_work = partial(eager, problem, params)
    samples["flops"] = [count_flops(eager_work)]
    if not hidden:
        samples["launches"] = [count_launches(work)]
    return samples | measure_bias(cell, estimator, reference)


def time_group(cells: list[Cell], samples: int) -> list[tuple[Samples, list[str]]]:
    """Times all cells of a group in turns, one inner gradient beside them.

    Returns:
        Cell by cell the samples of "time", "time_ratio", of each phase and, where its driver tells,
        of a GPU's utilisation; and notes on them.
    """
    device = cells[0].device
    problem, params = _first_task(cells[0])
    unit: Work = partial(value_and_gradient, problem.inner_loss, leaves(params))
    works = [unit]
    for index, cell in enumerate(cells):
        begin_part(index)
        works.append(partial(prepared_estimator(cell), problem, params))
    one, *times = interleaved_times(
        works,
        samples=samples,
        device=device,
        begin_part=lambda number: begin_part(max(0, number - 1)),
    )
    told = [(_samples(timing, one), _notes(timing, one)) for timing in times]
    if device != "cpu":  # last, so that it disturbs no timing
        for index, (work, (found, _)) in enumerate(zip(works[1:], told, strict=True)):
            begin_part(index)
            if readings := utilisation(work, device):
                found["utilisation"] = readings
    return told


def _notes(timing: Timing, unit: Timing) -> list[str]:
    """Adds to the notes on an estimate those on the inner gradient that it is compared with."""
    more = [f"inner gradient: {note}" for note in unit.notes if note not in timing.notes]
    return [*timing.notes, *more]


def _samples(timing: Timing, unit: Timing) -> Samples:
    ratios = [mine / one for mine, one in zip(timing.seconds, unit.seconds, strict=True)]
    phases = {_PHASES[Phase(phase)]: seconds for phase, seconds in timing.phases.items()}
    return {"time": timing.seconds, "time_ratio": ratios, **phases}


def _first_task(cell: Cell) -> tuple[BilevelProblem, Params]:
    return bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
