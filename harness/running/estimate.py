"""How long a plan will take, from a few gradients that are timed beforehand."""

import gc
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from estimators import Estimator, create
from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from estimators.hvp import hvp
from estimators.methods.options import measured_default
from harness.cell import Cell
from harness.matrix.outcome import Status
from harness.matrix.plan import Planned
from harness.matrix.pretraining import META_BATCH
from harness.matrix.problems import bilevel_problem
from harness.probes.flops import count_flops
from harness.probes.memory import peak_memory
from harness.probes.time import LEAST_SECONDS
from harness.running import measures
from harness.running.executor import Executor, Settings
from harness.running.processes import WorkResult, run_in_worker
from harness.support.files import temporary_folder

_COMPILATION = 30.0  # seconds of one compilation, about; a cell is compiled three times
_CALLS = 5  # in its dtype, for a score: resident memory, HVPs, live memory, FLOPs, launches
_CURVATURE = (3, 10)  # points at which a reference has the curvature taken, products at each
_SPENT = 0.15  # seconds, at least, on each of the pieces that are timed
_WARM_UP = 3  # calls before the time samples of an estimator, about


@dataclass(frozen=True)
class Part:
    """What a plan has of one task, model, depth and device.

    Attributes:
        task: canonical task specification.
        model: canonical model specification.
        depth: K.
        device: "cpu" or "cuda:N".
        cells: how many are to be measured.
        skipped: how many are not.
        seconds: estimated, with workers side by side; None where nothing could be timed.
    """

    task: str
    model: str
    depth: int
    device: str
    cells: int
    skipped: int
    seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """How long a plan will take.

    Attributes:
        parts: of the plan, in its order.
        start: seconds until the first worker is there.
        jobs: workers side by side.
        remarks: why cells are skipped or could not be estimated, with how many they are.
    """

    parts: list[Part]
    start: float
    jobs: int
    remarks: Counter[str]

    @property
    def seconds(self) -> float:
        """Of the whole plan, without the parts that could not be estimated."""
        return self.start + sum(part.seconds or 0.0 for part in self.parts)


@dataclass(frozen=True)
class Units:
    """Seconds that the pieces take of which a call of an estimator is made.

    Attributes:
        inner: one inner gradient.
        outer: one outer gradient.
        product: one HVP, its gradient graph included.
    """

    inner: float
    outer: float
    product: float

    def call(self, depth: int, products: int) -> float:
        """K g + o + n h: seconds of one call at depth K with n products."""
        return depth * self.inner + self.outer + products * self.product

    def exact(self, depth: int) -> float:
        """Seconds of one exact meta-gradient."""
        return self.call(depth, depth)


@dataclass(frozen=True)
class Timed:
    """What was timed of a task and model on a device.

    Attributes:
        own: units in the cell's dtype.
        double: units in float64.
        watching: seconds by which counting FLOPs and following memory slow one gradient down.
        task: seconds to build one task.
    """

    own: Units
    double: Units
    watching: float
    task: float


def estimate(
    planned: list[Planned], settings: Settings, executor: Executor | None = None
) -> Estimate:
    """Estimates how long `harness.running.runner.run` takes for a plan on this machine.

    In workers, one inner gradient g, one outer gradient o and one HVP h of each task and model are
    timed, and the smallest of cells is scored. A call at depth K that takes n products is taken as
    K g + o + n h. What is cached already is counted as if it were not. On a shared machine half as
    much or twice as much is no surprise.
    """
    workers = executor.workers if executor else settings.jobs
    machine = _Machine(settings, workers, executor.timed_at_once if executor else 1)
    parts: dict[tuple[str, str, int, str], list[Planned]] = {}
    for plan in planned:
        cell = plan.cell
        parts.setdefault((cell.task, cell.model, cell.depth, cell.device), []).append(plan)
    told: list[Part] = []
    remarks = Counter(plan.skip for plan in planned if plan.skip)
    for key, plans in parts.items():
        cells = [plan.cell for plan in plans if not plan.skip]
        seconds: float | None = None
        try:
            seconds = machine.seconds(cells)
        except _NotTimed as error:
            remarks[f"not estimated: {error}"] += len(cells)
        told.append(Part(*key, len(cells), len(plans) - len(cells), seconds))
    return Estimate(told, machine.start, workers, remarks)


def time_units(cell: Cell) -> Timed:
    """Times the pieces of which all calls on a task and model are made; to be run in a worker."""
    own, double = (_units(cell, dtype) for dtype in (cell.dtype, "float64"))
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
    gradient = partial(value_and_gradient, problem.inner_loss, leaves(params))

    def watch(work: Callable[[], object]) -> None:
        count_flops(work)
        peak_memory(work, cell.device)

    gc.freeze()  # or collecting what the libraries have made would drown the difference
    # What watching takes of itself is in the score of the least cell.
    nothing = _least_time(partial(watch, lambda: None), cell.device)
    watching = _least_time(partial(watch, gradient), cell.device) - nothing - 2 * own.inner
    build = partial(bilevel_problem, cell, 1, dtype=torch.float64, device=cell.device)
    return Timed(own, double, max(0.0, watching), _least_time(build, cell.device))


class _NotTimed(Exception):
    """A task and model could not be timed."""


class _Machine:
    """What takes how long here; nothing is timed twice."""

    def __init__(self, settings: Settings, workers: int, timed_at_once: int) -> None:
        self.settings, self.workers, self.timed_at_once = settings, workers, timed_at_once
        self.start = self._run_in_worker(os.getpid).seconds  # of the first worker
        self._worker = self._run_in_worker(os.getpid).seconds  # of any other
        self._score = self._least_score()
        self._timed: dict[Cell, WorkResult] = {}

    def seconds(self, cells: list[Cell]) -> float:
        """Adds up references, scores and times, as the runner goes about them."""
        groups: dict[Cell, list[Cell]] = {}
        for cell in cells:
            groups.setdefault(cell.group, []).append(cell)
        beside, alone = self._training(groups), 0.0
        for group, members in groups.items():
            timed = self._units(group)
            beside += self._worker + group.num_tasks * (timed.task + _reference(group.depth, timed))
            if self.settings.samples:
                alone += self._worker + self._time(timed.own.inner)
            for cell in members:
                estimator = create(cell.estimator)
                call = timed.own.call(cell.depth, _products(estimator, cell.depth))
                prepared = _preparation(cell, estimator, timed)
                beside += self._score + prepared + _score(cell, estimator, timed)
                if self.settings.samples:
                    alone += self._time(call) + prepared
        return beside / self.workers + alone / self.timed_at_once

    def _training(self, groups: Iterable[Cell]) -> float:
        """Seconds of meta-training; what is trained longer goes on from what is trained less."""
        longest: Counter[Cell] = Counter()
        for group in groups:
            longest[group.chain] = max(longest[group.chain], group.trained)
        seconds = 0.0
        for chain, steps in longest.items():
            timed = self._units(chain)
            seconds += steps * META_BATCH * (timed.task + timed.double.exact(chain.depth))
        return seconds

    def _time(self, call: float) -> float:
        return _WARM_UP * call + self.settings.samples * max(call, LEAST_SECONDS)

    def _units(self, cell: Cell) -> Timed:
        kind = replace(cell, depth=1, step_size=1.0, seed=0, num_tasks=1, trained=0)
        if kind not in self._timed:
            self._timed[kind] = self._run_in_worker(time_units, kind)
        ending = self._timed[kind]
        if ending.outcome.status is not Status.OK:
            raise _NotTimed(ending.outcome.reason)
        timed: Timed = ending.value
        return timed

    def _least_score(self) -> float:
        cell = Cell.of(estimator="fomaml", task="quadratic", model="linear", depth=1, num_tasks=1)
        with tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
            path = Path(folder) / "reference.pt"
            self._run_in_worker(measures.reference, cell, path)
            return self._run_in_worker(measures.score, cell, path).seconds

    def _run_in_worker(self, function: Callable[..., Any], *arguments: Any) -> WorkResult:
        limits, plugins = self.settings.limits, self.settings.plugins
        return run_in_worker(function, *arguments, limits=limits, plugins=plugins)


def _reference(depth: int, timed: Timed) -> float:
    """Seconds of a task's exact meta-gradient, and of the curvature along its inner loop."""
    points, each = _CURVATURE
    lanczos = min(max(depth, 1), points) * each * timed.double.product
    return timed.double.exact(depth) + depth * timed.double.inner + lanczos


def _score(cell: Cell, estimator: Estimator, timed: Timed) -> float:
    """Seconds of scoring, above those of the least cell."""
    count = _products(estimator, cell.depth)
    double = timed.double.call(cell.depth, count)
    if type(estimator).own_exact_gradient is not Estimator.own_exact_gradient:
        double += timed.double.exact(cell.depth)
    gradients = cell.depth + 1 + 2 * count  # an HVP differentiates a gradient
    once = _CALLS * timed.own.call(cell.depth, count) + gradients * timed.watching
    again = _COMPILATION if getattr(estimator, "compiled", False) else 0.0  # in float64
    return once + again + cell.num_tasks * (timed.task + double)


def _products(estimator: Estimator, depth: int) -> int:
    """Returns how many HVPs a call takes; an estimator that does not say is taken to be exact."""
    cost = estimator.cost(depth)
    return depth if cost is None else cost.hvps


def _preparation(cell: Cell, estimator: Estimator, timed: Timed) -> float:
    """Seconds before the first call: a fit to probes, a compilation."""
    calibration = _products(estimator, cell.depth) + cell.depth
    seconds = estimator.calibration_problems * (
        timed.task + timed.double.call(cell.depth, calibration)
    )
    return seconds + (_COMPILATION if getattr(estimator, "compiled", False) else 0.0)


def _units(cell: Cell, dtype: str) -> Units:
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, dtype), device=cell.device)
    point, engine = leaves(params), measured_default(params).engine
    return Units(
        inner=_least_time(partial(value_and_gradient, problem.inner_loss, point), cell.device),
        outer=_least_time(partial(value_and_gradient, problem.outer_loss, point), cell.device),
        product=_least_time(
            partial(hvp, problem.inner_loss, point, params, engine=engine), cell.device
        ),
    )


def _least_time(work: Callable[[], object], device: str) -> float:
    """Returns the least seconds of a few calls: what else runs here only ever adds to them.

    One call is enough where it is so long that its first steps do not matter.
    """
    times: list[float] = []
    while sum(times) < _SPENT:
        start = perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(perf_counter() - start)
    return min(times)
