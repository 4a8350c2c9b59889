"""Makes the profile of one cell; runs in a worker."""

import csv
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

import torch
from torch.profiler import ProfilerActivity, profile

from estimators.methods.options import Compilable
from harness.cell import Cell
from harness.environment import environment
from harness.matrix.problems import bilevel_problem, prepared_estimator
from harness.probes.memory import peak_memory
from harness.profiling.flames import Stacks, collapse, write_stacks
from harness.profiling.folder import SCHEMA
from harness.profiling.marks import marked_phases, show_phases
from harness.profiling.memory_timeline import Change, Held, follow, overhear
from harness.profiling.operators import Operator, operators

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
    """Profiles one estimate of a cell's first task and writes the files of `FILES`.

    Time, stacks and memory come from estimates of their own, since each way of looking slows what
    the others see.
    """
    estimator = prepared_estimator(cell)
    problem, params = bilevel_problem(cell, 0, dtype=getattr(torch, cell.dtype), device=cell.device)
    work = partial(estimator, problem, params)
    for _ in range(_WARM_UP):
        work()
    cuda = cell.device.startswith("cuda")
    compiled = isinstance(estimator, Compilable) and estimator.compiled

    table = _trace(work, folder / "trace.json", cuda=cuda)
    _write_rows(folder / "operators.csv", Operator, table)
    write_stacks(_stacks(work), folder / "stacks.txt")
    timeline = overhear(work) if compiled and not cuda else follow(work)
    _write_rows(folder / "memory.csv", Change, timeline.changes)
    _write_rows(folder / "tensors.csv", Held, timeline.held)

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
    (folder / "profile.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


def _trace(work: Work, path: Path, *, cuda: bool) -> list[Operator]:
    """Writes a Chrome trace of one estimate and returns the table of its operators."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def synchronised() -> None:
        with marked_phases():
            work()
        if cuda:
            torch.cuda.synchronize()

    make = partial(profile, activities=activities, record_shapes=True, profile_memory=True)
    profiler = _least_disturbed(make, synchronised)
    trace = _chrome_trace(profiler)
    show_phases(trace)
    path.write_text(json.dumps(trace), encoding="utf-8")
    return operators(profiler.events() or [])  # type: ignore[no-untyped-call]


def _stacks(work: Work) -> Stacks:
    """Returns the stacks of one estimate, Python frames among them."""

    def marked() -> None:
        with marked_phases():
            _estimate(work)

    make = partial(profile, activities=[ProfilerActivity.CPU], with_stack=True)
    profiler = _least_disturbed(make, marked)
    return collapse(_chrome_trace(profiler), cast(FunctionType, _estimate))


def _chrome_trace(profiler: profile) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return trace


def _least_disturbed(make: Callable[[], profile], work: Work) -> profile:
    """Returns the profile of the quickest of several runs.

    One time slice given to another process is as long as a whole small estimate.
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
    """Returns time and peak of each phase, in the order of their time."""
    phases: dict[str, dict[str, float]] = {}
    for row in table:
        sums = phases.setdefault(row.phase, {"seconds": 0.0, "device_seconds": 0.0})
        sums["seconds"] += row.self_seconds
        sums["device_seconds"] += row.device_seconds
    for phase, peak in peaks.items():
        phases.setdefault(phase, {"seconds": 0.0, "device_seconds": 0.0})["peak_memory"] = peak
    return dict(sorted(phases.items(), key=lambda item: -item[1]["seconds"]))


def _write_rows(path: Path, kind: type[Any], rows: Sequence[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
