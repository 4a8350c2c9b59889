"""What probes measure: a cell's estimator on the cell's first task."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from estimators import BilevelProblem, Estimator, MetaGradient, Params, create
from estimators.methods.options import Compilable
from harness.cell import Cell
from harness.matrix.problems import Sampler, bilevel_problem
from harness.probes.draws import Estimates


class Target:
    """A cell to measure; task, model and estimator are built once for all probes.

    Attributes:
        cell: the cell.
        estimator: that of the cell unless given.
        problem: of the cell's first task, in the cell's dtype.
        params: theta, likewise.
        reference: file of the group's exact meta-gradients, see `harness.probes.references`.
        notes: of probes on what they measured, a sentence each.
    """

    def __init__(self, cell: Cell, reference: Path, estimator: Estimator | None = None) -> None:
        self.cell, self.reference = cell, reference
        self.estimator = estimator or create(cell.estimator)
        self.problem, self.params = self.build()
        self.notes: list[str] = []

    def build(self) -> tuple[BilevelProblem, Params]:
        """Build the problem and its parameters once more."""
        dtype = getattr(torch, self.cell.dtype)
        return bilevel_problem(self.cell, 0, dtype=dtype, device=self.cell.device)

    def estimate(self) -> MetaGradient:
        """Estimate the meta-gradient of the first task."""
        return self.estimates.first()

    @property
    def estimates(self) -> Estimates:
        """The same as a piece of work, which makes several where the estimator is random."""
        return Estimates(self.estimator, self.problem, self.params)

    @property
    def compiled(self) -> bool:
        """Whether the estimate is one compiled program, into which dispatch modes cannot look."""
        return isinstance(self.estimator, Compilable) and self.estimator.compiled

    @property
    def eager_estimates(self) -> Estimates:
        """The same operations, one at a time."""
        return Estimates(self._eager, self.problem, self.params)

    @cached_property
    def _eager(self) -> Estimator:
        estimator = self.estimator
        if isinstance(estimator, Compilable) and estimator.compiled:
            return replace(estimator, compiled=False)
        return estimator

    def float64_problems(self) -> tuple[Iterator[BilevelProblem], Params]:
        """Return the problems of all tasks, one at a time, and theta, in float64."""
        sampler = Sampler.of(self.cell, dtype=torch.float64, device=self.cell.device)
        return map(sampler.problem, range(self.cell.num_tasks)), sampler.params
