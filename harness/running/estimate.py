"""Estimate how long a plan takes, from a few gradients that are timed first."""

import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from estimators import Estimator, SampledProblem, create
from estimators.base.differentiation import value_and_gradient
from estimators.base.tree import leaves
from estimators.hvp import hvp
from estimators.methods.options import measured_default
from harness.cell import Cell
from harness.matrix.compilation import READY_SECONDS, compilation
from harness.matrix.outcome import Status
from harness.matrix.plan import Planned
from harness.matrix.pretraining import META_BATCH
from harness.matrix.problems import bilevel_problem
from harness.probes import enumeration, second_truth
from harness.probes.draws import REPEATS, draws
from harness.probes.flops import count_flops
from harness.probes.memory import peak_memory
from harness.probes.time import LEAST_SECONDS, PHASE_SAMPLES
from harness.probes.utilisation import SECONDS
from harness.running import measures
from harness.running.executor import Executor, Settings
from harness.running.processes import WorkResult, run_in_worker
from harness.support.files import temporary_folder
from harness.tasks import TASKS

_CALLS = 5  # in its dtype, for a score: resident memory, HVPs, live memory, FLOPs, launches
_CURVATURE = (3, 10)  # points at which a reference measures the curvature, products at each
_LEAST_TIMED = 0.15  # seconds of calls of each piece
_WARM_UP = 3  # calls before the time samples of an estimator, about


@dataclass(frozen=True)
class Part:
    """The cells of one task, model, depth and device.

    Attributes:
        task: canonical task specification.
        model: canonical model specification.
        depth: K.
        device: "cpu" or "cuda:N".
        cells: number of cells to measure.
        skipped: number of cells that are skipped.
        seconds: estimated, with workers side by side; None if nothing could be timed.
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
    """How long a plan takes.

    Attributes:
        parts: of the plan, in its order.
        start: seconds until the first worker is ready.
        jobs: workers side by side.
        remarks: why cells are skipped or could not be estimated, with their number.
    """

    parts: list[Part]
    start: float
    jobs: int
    remarks: Counter[str]

    @property
    def seconds(self) -> float:
        """Seconds of the whole plan, without the parts that could not be estimated."""
        return self.start + sum(part.seconds or 0.0 for part in self.parts)


@dataclass(frozen=True)
class _Units:
    """Seconds of one inner gradient, one outer gradient, and one HVP with its gradient graph."""

    inner: float
    outer: float
    product: float

    def call(self, depth: int, products: float) -> float:
        """Return the seconds of one call of an estimator: K g + o + n h."""
        return depth * self.inner + self.outer + products * self.product

    def exact(self, depth: int) -> float:
        """Return the seconds of one exact meta-gradient."""
        return self.call(depth, depth)


@dataclass(frozen=True)
class _Timed:
    """Timings of a task and model on a device.

    Attributes:
        own: units in the cell's dtype.
        double: units in float64.
        watching: seconds by which counting FLOPs and following memory slow one gradient down.
        task: seconds to build one task.
        compilation: seconds to compile an estimator's programs in one dtype.
        outcomes: of a drawn inner step; inf for many, 0 where none can be drawn.
    """

    own: _Units
    double: _Units
    watching: float
    task: float
    compilation: float
    outcomes: float

    def ways(self, depth: int) -> float:
        """Return how many ways lead through drawn inner steps; 0 if too many to enumerate."""
        ways = self.outcomes**depth if self.outcomes else 0.0
        return ways if ways <= enumeration.MOST else 0.0


def estimate(
    planned: list[Planned], settings: Settings, executor: Executor | None = None
) -> Estimate:
    """Estimate how long `harness.running.runner.run` takes for a plan on this machine.

    Workers time one inner gradient g, one outer gradient o and one HVP h of each task and model,
    and the smallest of scores. A call at depth K with n products takes K g + o + n h. Cached
    results are ignored. On a shared machine expect half as much to twice as much.
    """
    workers = executor.workers if executor else settings.jobs
    timed_at_once = executor.timed_at_once if executor else 1
    costs = CostModel(settings)
    start = costs.start()  # of the first one
    plans_of: dict[tuple[str, str, int, str], list[Planned]] = {}
    for plan in planned:
        cell = plan.cell
        plans_of.setdefault((cell.task, cell.model, cell.depth, cell.device), []).append(plan)
    parts: list[Part] = []
    remarks = Counter(plan.skip for plan in planned if plan.skip)
    for key, plans in plans_of.items():
        cells = [plan.cell for plan in plans if not plan.skip]
        seconds: float | None = None
        try:
            scoring, timing = costs.stages(cells)
            one = key[-1] != "cpu" and not (executor and executor.where)  # worker for each GPU
            seconds = scoring / (1 if one else workers) + timing / timed_at_once
        except NotTimed as error:
            remarks[f"not estimated: {error}"] += len(cells)
        parts.append(Part(*key, len(cells), len(plans) - len(cells), seconds))
    return Estimate(parts, start, workers, remarks)


class NotTimed(Exception):
    """A task and model could not be timed."""


class CostModel:
    """Predicts the seconds of pieces of work on this machine.

    Each task and model, and each device, is timed in workers once, when it is first asked for.

    Attributes:
        most: seconds that a worker may take to time something.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.most = settings, settings.time_limit
        self._timed: dict[Cell, WorkResult] = {}
        self._least: dict[str, tuple[float, float]] = {}
        self._compiling: dict[tuple[str, ...], Cell] = {}  # first of those that share programs

    def start(self) -> float:
        """Return the seconds until a worker is ready."""
        return self._run_in_worker(_open, "cpu").seconds

    def stages(self, cells: list[Cell]) -> tuple[float, float]:
        """Add up pretraining, references and scores; and times."""
        groups: dict[Cell, list[Cell]] = {}
        for cell in cells:
            groups.setdefault(cell.group, []).append(cell)
        longest: dict[Cell, Cell] = {}  # a chain of pretraining goes on from shorter ones
        for group in groups:
            if group.trained >= longest.get(group.chain, group).trained:
                longest[group.chain] = group
        scoring = sum(map(self._pretraining, longest.values()))
        scoring += sum(map(self.reference, groups)) + sum(map(self.score, cells))
        return scoring, sum(map(self.times, groups.values())) if self.settings.samples else 0.0

    def reference(self, group: Cell) -> float:
        """Return the seconds of what a group is scored against, without pretraining."""
        timed = self._time_units(group)
        worker, _ = self._least_work(group.device)
        return worker + group.num_tasks * (timed.task + _reference(group.depth, timed))

    def score(self, cell: Cell) -> float:
        """Return the seconds of a cell's score."""
        timed, estimator = self._time_units(cell), create(cell.estimator)
        _, least = self._least_work(cell.device)
        seconds = least + _score(cell, estimator, timed)
        if getattr(estimator, "compiled", False):
            for dtype in {cell.dtype, "float64"}:  # the latter for the bias
                key = cell.estimator, cell.task, cell.model, cell.device, dtype
                is_first = self._compiling.setdefault(key, cell) == cell
                seconds += timed.compilation if is_first else READY_SECONDS
        return seconds

    def times(self, cells: Sequence[Cell]) -> float:
        """Return the seconds of timing cells of a group in turns."""
        timed = self._time_units(cells[0])
        worker, _ = self._least_work(cells[0].device)
        seconds = worker + self._samples(timed.own.inner)
        for cell in cells:
            estimator = create(cell.estimator)
            call = timed.own.call(cell.depth, _products(estimator, cell.depth)) * draws(estimator)
            seconds += self._samples(call)
            seconds += READY_SECONDS if getattr(estimator, "compiled", False) else 0.0
            if cell.device != "cpu":
                seconds += max(SECONDS, call)  # of utilisation
        return seconds

    def _pretraining(self, group: Cell) -> float:
        if not group.trained:
            return 0.0
        timed = self._time_units(group.chain)
        return group.trained * META_BATCH * (timed.task + timed.double.exact(group.depth))

    def _samples(self, call: float) -> float:
        samples = self.settings.samples
        others = _WARM_UP + min(samples, PHASE_SAMPLES)
        return others * call + samples * max(call, LEAST_SECONDS)

    def _time_units(self, cell: Cell) -> _Timed:
        alpha = TASKS.create(cell.task).step_size
        kind = replace(cell.group, depth=1, step_size=alpha, seed=0, num_tasks=1, trained=0)
        if kind not in self._timed:
            self._timed[kind] = self._run_in_worker(time_units, kind)
        result = self._timed[kind]
        if result.outcome.status is not Status.OK:
            raise NotTimed(result.outcome.reason)
        timed: _Timed = result.value
        return timed

    def _least_work(self, device: str) -> tuple[float, float]:
        """Return the seconds of a worker that opens a device, and of the least score there."""
        if device not in self._least:
            opened = self._run_in_worker(_open, device)
            cell = Cell.of(estimator="fomaml", task="quadratic", model="linear", depth=1)
            cell = replace(cell, device=device, num_tasks=1)
            with tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
                path = Path(folder) / "reference.pt"
                self._run_in_worker(measures.reference, cell, path, self.settings.check)
                scored = self._run_in_worker(measures.score, cell, path)
            self._least[device] = opened.seconds, scored.seconds
        return self._least[device]

    def _run_in_worker(self, function: Callable[..., Any], *arguments: Any) -> WorkResult:
        limits = replace(self.settings.limits, seconds=self.most)
        return run_in_worker(function, *arguments, limits=limits, plugins=self.settings.plugins)


def _open(device: str) -> None:
    """Open a device, which takes some seconds where it is a GPU."""
    torch.zeros(1, device=device)


def _reference(depth: int, timed: _Timed) -> float:
    """Return the seconds of a task's exact meta-gradient and of the curvature along its path."""
    points, each = _CURVATURE
    lanczos = min(max(depth, 1), points) * each * timed.double.product
    # A draw of T2 takes drawn and expected gradients.
    draws_of_second = (timed.ways(depth) or second_truth.DRAWS) if timed.outcomes else 0.0
    exact = (1 + 2 * draws_of_second) * timed.double.exact(depth)
    return exact + depth * timed.double.inner + lanczos


def _score(cell: Cell, estimator: Estimator, timed: _Timed) -> float:
    """Return the seconds of scoring, beyond those of the smallest cell."""
    count = _products(estimator, cell.depth)
    repeats = 1.0
    if estimator.is_random:  # the outer gradient has outcomes as well
        ways = timed.ways(cell.depth)
        repeats = min(ways * timed.outcomes, enumeration.MOST) if ways else REPEATS
    double = timed.double.call(cell.depth, count) * repeats
    if type(estimator).own_exact_gradient is not Estimator.own_exact_gradient:
        double += timed.double.exact(cell.depth)
    gradients = cell.depth + 1 + 2 * count  # an HVP differentiates a gradient
    calls = _CALLS * timed.own.call(cell.depth, count) + gradients * timed.watching
    return draws(estimator) * calls + cell.num_tasks * (timed.task + double)


def _products(estimator: Estimator, depth: int) -> float:
    """Return how many HVPs a call takes; an estimator of unknown cost is taken to be exact."""
    cost = estimator.cost(depth)
    return depth if cost is None else cost.hvps


def time_units(cell: Cell) -> _Timed:
    """Time the pieces that calls on a task and model are made of; runs in a worker."""
    own, double = (_units(cell, dtype) for dtype in (cell.dtype, "float64"))
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
    gradient = partial(value_and_gradient, problem.inner_loss, leaves(params))

    def watch(work: Callable[[], object]) -> None:
        count_flops(work)
        peak_memory(work, cell.device)

    gc.freeze()  # or collecting the libraries' objects would hide the difference
    overhead = _least_time(partial(watch, lambda: None), cell.device)  # part of any score
    watching = _least_time(partial(watch, gradient), cell.device) - overhead - 2 * own.inner
    build = partial(bilevel_problem, cell, 1, dtype=torch.float64, device=cell.device)
    task = _least_time(build, cell.device)
    outcomes = 0.0
    if isinstance(problem, SampledProblem):
        outcomes = enumeration.count(replace(problem, steps=1))
    return _Timed(own, double, max(0.0, watching), task, compilation(params).seconds, outcomes)


def _units(cell: Cell, dtype: str) -> _Units:
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, dtype), device=cell.device)
    point, engine = leaves(params), measured_default(params).engine
    works = (
        partial(value_and_gradient, problem.inner_loss, point),
        partial(value_and_gradient, problem.outer_loss, point),
        partial(hvp, problem.inner_loss, point, params, engine=engine),
    )
    works[-1]()  # torch imports modules at the first product of a process
    return _Units(*(_least_time(work, cell.device) for work in works))


def _least_time(work: Callable[[], object], device: str) -> float:
    """Return the shortest time of a few calls, to which other processes add least."""
    times: list[float] = []
    while sum(times) < _LEAST_TIMED:
        start = perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(perf_counter() - start)
    return min(times)
