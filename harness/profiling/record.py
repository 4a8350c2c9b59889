"""Making the profile of one cell, in a worker."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter
from types import FunctionType
from typing import Any, cast

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from estimators import create
from estimators.methods.options import Compilable
from harness.cell import Cell
from harness.environment import environment
from harness.matrix.problems import bilevel_problem
from harness.probes.draws import Estimates
from harness.probes.memory import peak_memory
from harness.profiling.folder import SCHEMA, SUMMARY, TABLES, Operator, Stacks, write_stacks
from harness.profiling.memory_timeline import follow_allocations, follow_storages
from harness.profiling.trace import collapse, marked_phases, operators, show_phases

Work = Callable[[], object]

_RUNS = 20  # at most, of which the quickest is kept
_ENOUGH = 2.0  # seconds after which no further run begins
_WARM_UP = 2  # calls; the first one loads libraries and compiles
_COMPILED = (
    "The estimate is one compiled program: all of it counts as meta-gradient, and which tensors "
    "are alive at the peak is not known."
)
_CUDA_MEMORY = (
    "The timeline follows tensors' storages; the allocator's own peak, with its rounding and what "
    "kernels need inside, is allocator_peak."
)
_CUDA_TIME = (
    "Phases are those of the host, which launches kernels and does not wait for them; "
    "device_seconds is the kernels' own time."
)


def record(cell: Cell, folder: Path) -> None:
    """Profile one estimate of a cell's first task and write the files of `FILES`.

    Time, stacks and memory come from separate estimates, since each way of observing slows down
    the others.
    """
    estimator = create(cell.estimator)
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
    work: Callable[[], object] = partial(estimator, problem, params)  # a frame less in stacks
    if estimator.is_random:  # the same draws at each call
        work = Estimates(estimator, problem, params).first
    for _ in range(_WARM_UP):
        work()
    cuda = cell.device.startswith("cuda")
    compiled = isinstance(estimator, Compilable) and estimator.compiled

    table = _trace(work, folder / "trace.json", cuda=cuda)
    write_stacks(_stacks(work), folder / "stacks.txt")
    timeline = follow_allocations(work) if compiled and not cuda else follow_storages(work)
    _write_rows(folder / "operators.csv", table)
    _write_rows(folder / "memory.csv", timeline.changes)
    _write_rows(folder / "tensors.csv", timeline.tensors)
    notes = {_COMPILED: compiled, _CUDA_MEMORY: cuda, _CUDA_TIME: cuda}
    summary = {
        "schema": SCHEMA,
        "cell": cell.id,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "seconds": sum(row.self_seconds for row in table),
        "phases": _by_phase(table, timeline.peak_by_phase),
        "peak_memory": timeline.peak,
        "peak_phase": timeline.peak_phase,
        "memory_at_end": timeline.changes[-1].live if timeline.changes else 0,
        "allocator_peak": peak_memory(work, cell.device) if cuda else None,
        "notes": [note for note, holds in notes.items() if holds],
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")


def _trace(work: Work, path: Path, *, cuda: bool) -> list[Operator]:
    """Write a Chrome trace of one estimate and return the table of its operators."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def synchronised() -> None:
        with marked_phases():
            work()
        if cuda:
            torch.cuda.synchronize()

    make = partial(profile, activities=activities, record_shapes=True, profile_memory=True)
    profiler = _quickest(make, synchronised)
    trace = _chrome_trace(profiler)
    show_phases(trace)
    path.write_text(json.dumps(trace), encoding="utf-8")
    return operators(profiler.events() or [])  # type: ignore[no-untyped-call]


def _stacks(work: Work) -> Stacks:
    """Return the stacks of one estimate, with Python frames."""

    def marked() -> None:
        with marked_phases():
            _estimate(work)

    make = partial(profile, activities=[ProfilerActivity.CPU], with_stack=True)
    return collapse(_chrome_trace(_quickest(make, marked)), cast(FunctionType, _estimate))


def _chrome_trace(profiler: profile) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return trace


def _quickest(make: Callable[[], profile], work: Work) -> profile:
    """Return the profile of the quickest of several runs.

    A time slice that another process gets is as long as a whole small estimate.
    """
    best, least = make(), inf
    until = perf_counter() + _ENOUGH
    for run in range(_RUNS):
        if run and perf_counter() > until:
            break
        with make() as profiler:
            start = perf_counter()
            work()
            spent = perf_counter() - start
        if spent < least:
            best, least = profiler, spent
    return best


def _estimate(work: Work) -> None:
    work()


def _by_phase(table: list[Operator], peaks: dict[str, int]) -> dict[str, dict[str, float]]:
    """Return time and peak of each phase, the longest time first."""
    phases: dict[str, dict[str, float]] = {
        phase: {"seconds": 0.0, "device_seconds": 0.0}
        for phase in dict.fromkeys([*(row.phase for row in table), *peaks])
    }
    for row in table:
        phases[row.phase]["seconds"] += row.self_seconds
        phases[row.phase]["device_seconds"] += row.device_seconds
    for phase, peak in peaks.items():
        phases[phase]["peak_memory"] = peak
    return dict(sorted(phases.items(), key=lambda item: -item[1]["seconds"]))


def _write_rows(path: Path, rows: Sequence[Any]) -> None:
    columns = [field.name for field in fields(TABLES[path.name])]
    pd.DataFrame([asdict(row) for row in rows], columns=columns).to_csv(path, index=False)
