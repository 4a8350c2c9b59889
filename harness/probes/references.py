"""References of a group of cells: exact meta-gradients in float64, cached by content."""

import inspect
import io
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import estimators
from estimators import BilevelProblem, Params, SampledProblem, create
from estimators.base.tree import norm
from harness.cell import Cell
from harness.matrix.metrics import METRICS
from harness.matrix.notes import not_measured
from harness.matrix.outcome import Diverged
from harness.matrix.pretraining import losses_at
from harness.matrix.problems import bilevel_problems, origin
from harness.probes import curvature, draws, enumeration, second_truth
from harness.probes.second_truth import SecondTruth
from harness.support import cache

_SOURCES = (
    Path(inspect.getfile(estimators)).parent,
    *(Path(inspect.getfile(module)) for module in (curvature, draws, enumeration, second_truth)),
    Path(__file__),
)


@dataclass(frozen=True)
class Reference:
    """The exact meta-gradient and the `largest_curvature` of each task of a group.

    Attributes:
        gradients: empty where they cannot be had.
        curvature: not numbers where it cannot be had.
        notes: what cannot be had, and why.
        seconds: gradients of the `SecondTruth` of each task; empty where steps cannot be drawn.
        variances: of these.
    """

    gradients: list[Params]
    curvature: list[float]
    notes: list[str] = field(default_factory=list)
    seconds: list[Params] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)

    def second_truth(self, index: int) -> SecondTruth | None:
        """Return the second truth of a task; None where there is but one."""
        if not self.seconds:
            return None
        return SecondTruth(self.seconds[index], self.variances[index])


def save_reference(group: Cell, path: Path, *, check: bool = True) -> None:
    """Compute the references of a group, or take them from the cache, into a file.

    What cannot be had is noted there: torch lacks second derivatives of some operators, and a
    module may not run in float64. Estimators of first order may do without either.

    Args:
        group: of cells.
        path: of the file.
        check: whether to refuse problems of which estimates would be wrong.

    Raises:
        Diverged: a meta-gradient is not finite.
        OptionError: the check has found something.
    """
    tasks, device = range(group.num_tasks), group.device
    problems, theta = bilevel_problems(
        group, tasks, dtype=torch.float64, device=device, check=check
    )
    try:
        reference = _cached(group, problems, theta)
    except Exception as error:
        note = not_measured(METRICS["bias"].label, error)
        reference = Reference([], [math.nan] * len(problems), [note])
    buffer = io.BytesIO()
    torch.save(vars(reference), buffer)
    path.write_bytes(buffer.getvalue())  # unlike torch, it says so where the disk is full


def _cached(group: Cell, problems: list[BilevelProblem], theta: Params) -> Reference:
    content = [part for problem in problems for part in losses_at(problem, theta)]
    machine = cache.arithmetic(group.device)
    key = cache.digest(origin(group), *_SOURCES, machine, *content)
    stored = cache.load("reference", key)
    if stored is not None:
        return Reference(**stored)
    reference = _with_second_truth(_computed(problems, theta), group, problems, theta)
    if not reference.notes:
        cache.save("reference", key, vars(reference))
    return reference


def _computed(problems: list[BilevelProblem], theta: Params) -> Reference:
    gradients = [create("adjoint")(problem, theta).gradient for problem in problems]
    for index, gradient in enumerate(gradients):
        if not math.isfinite(norm(gradient)):
            raise Diverged(f"the exact meta-gradient of task {index} is not finite")
    try:
        sizes = [curvature.largest_curvature(problem, theta) for problem in problems]
    except Exception as error:
        note = not_measured(METRICS["curvature"].label, error)
        return Reference(gradients, [math.nan] * len(problems), [note])
    return Reference(gradients, sizes)


def _with_second_truth(
    reference: Reference, group: Cell, problems: list[BilevelProblem], theta: Params
) -> Reference:
    found = [
        second_truth.second_truth(problem, theta, group.seed, index)
        for index, problem in enumerate(problems)
        if isinstance(problem, SampledProblem)
    ]
    if not found:
        return reference
    return replace(
        reference,
        seconds=[truth.gradient for truth in found],
        variances=[truth.variance for truth in found],
    )


def load_reference(path: Path, device: str) -> Reference:
    """Read what `save_reference` wrote."""
    return Reference(**torch.load(path, map_location=device, weights_only=True))
