"""What workers do of a cell: a reference, a score, the timing of a group."""

from functools import partial
from pathlib import Path

import torch

from estimators import create
from estimators.base.differentiation import value_and_gradient
from estimators.base.phases import Phase
from estimators.base.tree import leaves
from harness.cell import Cell
from harness.matrix.metrics import Samples, probes
from harness.matrix.notes import not_measured, warnings_as_notes
from harness.matrix.problems import bilevel_problem
from harness.probes.counts import counts
from harness.probes.draws import Estimates
from harness.probes.references import save_reference
from harness.probes.target import Target
from harness.probes.time import Timing, Work, interleaved_times
from harness.probes.utilisation import utilisation
from harness.running.worker import start_part

_PHASES = {
    Phase.INNER_LOOP: "time_inner_loop",
    Phase.OUTER_GRADIENT: "time_outer_gradient",
    Phase.META_GRADIENT: "time_meta_gradient",
}


def reference(group: Cell, path: Path, check: bool) -> None:
    """Compute the file that all cells of a group are scored against; see `save_reference`."""
    save_reference(group, path, check=check)


def score(cell: Cell, reference: Path) -> tuple[Samples, list[str]]:
    """Measure everything of a cell but time; to be called in a fresh process.

    Where a probe fails its metrics are missing. The cell fails where an estimate does without one.

    Returns:
        Samples by metric; and notes: what is missing and why, and warnings.

    Raises:
        Diverged: an estimate or the outer loss is not finite.
    """
    samples: Samples = {}
    with warnings_as_notes() as notes:
        target = Target(cell, reference)
        if target.compiled:
            target.estimate()  # the compiler's own memory and time are not the estimate's
        for label, probe in probes():
            try:
                samples |= probe(target)
            except Exception as error:
                note = not_measured(label, error)
                counts(target)
                target.notes.append(note)
    return samples, [*target.notes, *notes]


def time_group(cells: list[Cell], samples: int) -> list[tuple[Samples, list[str]]]:
    """Time cells that differ only in their estimator in turns, one inner gradient beside them.

    Returns:
        Cell by cell the samples of "time", "time_ratio", of each phase and, where its driver tells,
        of a GPU's utilisation; and notes on them.
    """
    cell, device = cells[0], cells[0].device
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=device)
    works: list[Work] = [partial(value_and_gradient, problem.inner_loss, leaves(params))]
    for index, cell in enumerate(cells):
        start_part(index)
        works.append(Estimates(create(cell.estimator), problem, params))
    unit, *timings = interleaved_times(
        works,
        samples=samples,
        device=device,
        on_part=lambda number: start_part(max(0, number - 1)),
    )
    results = [(_samples(timing, unit), _notes(timing, unit)) for timing in timings]
    if device != "cpu":  # last, so that it disturbs no timing
        for index, (work, (measured, _)) in enumerate(zip(works[1:], results, strict=True)):
            start_part(index)
            if readings := utilisation(work, device):
                measured["utilisation"] = readings
    return results


def _notes(timing: Timing, unit: Timing) -> list[str]:
    """Add to the notes on an estimate those on the inner gradient that it is compared with."""
    more = [f"inner gradient: {note}" for note in unit.notes if note not in timing.notes]
    return [*timing.notes, *more]


def _samples(timing: Timing, unit: Timing) -> Samples:
    ratios = [mine / one for mine, one in zip(timing.seconds, unit.seconds, strict=True)]
    phases = {_PHASES[Phase(phase)]: seconds for phase, seconds in timing.phases.items()}
    return {"time": timing.seconds, "time_ratio": ratios, **phases}
