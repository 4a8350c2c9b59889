"""The table by operator and phase."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from harness.profiling.marks import ESTIMATE, phase_begun

OUTSIDE = "(outside of operators)"
"""Stands for Python, and for whatever else is not within an operator."""


@dataclass
class Operator:
    """What one operator took within one phase.

    Attributes:
        phase: the phase.
        operator: its name, as `aten::mm`.
        calls: how often it was called.
        self_seconds: time in it, without the operators that it calls.
        total_seconds: time in it, with them.
        self_bytes: allocated in it less what was freed in it, without the operators that it
            calls; what Python frees between operators is nobody's.
        device_seconds: time of the kernels that it launched itself; 0 on the CPU.
    """

    phase: str
    operator: str
    calls: int = 0
    self_seconds: float = 0.0
    total_seconds: float = 0.0
    self_bytes: int = 0
    device_seconds: float = 0.0


def operators(events: Iterable[FunctionEvent]) -> list[Operator]:
    """Sums a profile by phase and operator; self times add up to the time of the whole.

    An operator belongs to the phase in which it begins.

    Returns:
        Rows, the longest self time first.
    """
    host = [event for event in events if event.device_type == DeviceType.CPU]
    (whole,) = (event.time_range for event in host if event.name == ESTIMATE)
    marks = [e for e in host if e.is_user_annotation and phase_begun(e.name)]
    marks.sort(key=lambda event: event.time_range.start)
    starts = [whole.start, *(mark.time_range.start for mark in marks[1:])]
    phases = [phase_begun(mark.name) for mark in marks]
    rows: dict[tuple[str, str], Operator] = {}
    for phase, start, end in zip(phases, starts, [*starts[1:], whole.end], strict=True):
        row = rows.setdefault((phase, OUTSIDE), Operator(phase, OUTSIDE))
        row.total_seconds += (end - start) * 1e-6
    for event in host:
        # What an autograd thread does belongs to the phase that waits for it.
        index = bisect_right(starts, event.time_range.start) - 1
        outside = index < 0 or event.time_range.start >= whole.end
        if outside or event.name == ESTIMATE or phase_begun(event.name):
            continue
        row = rows.setdefault((phases[index], event.name), Operator(phases[index], event.name))
        row.calls += 1
        row.self_seconds += event.self_cpu_time_total * 1e-6
        row.total_seconds += event.cpu_time_total * 1e-6
        row.self_bytes += event.self_cpu_memory_usage + event.self_device_memory_usage
        row.device_seconds += event.self_device_time_total * 1e-6
    for phase in set(phases):
        within = sum(r.self_seconds for r in rows.values() if r.phase == phase)
        rest = rows[phase, OUTSIDE]
        rest.self_seconds = rest.total_seconds = rest.total_seconds - within
    return sorted(rows.values(), key=lambda row: -row.self_seconds)
