"""Phases, operators and stacks of an estimate, taken from torch's profiler.

A phase can begin inside an operator, in a hook of the backward pass. A range that starts there
would cut the operator in two, which neither torch's sums nor trace viewers accept. So the start of
each phase is a mark, a range of almost no length, and phases are put together from marks.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

from estimators.base import phases
from estimators.base.phases import Phase, watched
from harness.profiling.folder import Operator, Stacks

ESTIMATE = "estimate"
"""The range around all phases."""

OUTSIDE = "(outside of operators)"
"""Stands for Python, and for all else that is not in an operator."""

_MARK = "phase: "
_TRACK = 0  # no thread has this number
_ADDRESS = re.compile(r" (object )?at 0x[0-9a-f]+")
_ROOT = f"{Path(phases.__file__).parents[1]}/"
_FRAMES = ("python_function", "cpu_op")
_MARKS = "estimators/base/phases.py("


@contextmanager
def marked_phases() -> Generator[None]:
    """Open the range `ESTIMATE`, and mark in it where phases begin."""

    def mark(phase: Phase) -> None:
        with record_function(_MARK + phase):
            pass

    with record_function(ESTIMATE):
        mark(Phase.META_GRADIENT)
        with watched(mark):
            yield


def marked_phase(event: str) -> str:
    """Return the phase whose beginning an event of this name marks; empty for other events."""
    return event.removeprefix(_MARK) if event.startswith(_MARK) else ""


def show_phases(trace: dict[str, Any]) -> None:
    """Replace the marks of a Chrome trace by phases, on a track above the threads."""
    events = trace["traceEvents"]
    notes = [event for event in events if event.get("cat") == "user_annotation"]
    marks = sorted((e for e in notes if marked_phase(e["name"])), key=lambda event: event["ts"])
    (whole,) = (event for event in notes if event["name"] == ESTIMATE)
    track = {"pid": whole["pid"], "tid": _TRACK, "ts": whole["ts"]}
    shown = [
        {"ph": "M", "name": "thread_name", "args": {"name": "phases"}, **track},
        {"ph": "M", "name": "thread_sort_index", "args": {"sort_index": -1}, **track},
    ]
    inner = [mark["ts"] for mark in marks[1:]]
    starts, ends = [whole["ts"], *inner], [*inner, whole["ts"] + whole["dur"]]
    for mark, start, end in zip(marks, starts, ends, strict=True):
        span = {"ph": "X", "cat": "phase", "name": marked_phase(mark["name"])}
        shown.append(span | track | {"ts": start, "dur": end - start})
    others = [event for event in events if not marked_phase(event.get("name", ""))]
    trace["traceEvents"] = [*others, *shown]


def operators(events: Iterable[FunctionEvent]) -> list[Operator]:
    """Sum a profile by operator and the phase in which it begins, the longest self time first.

    Self times add up to the time of the whole.
    """
    host = [event for event in events if event.device_type == DeviceType.CPU]
    (whole,) = (event.time_range for event in host if event.name == ESTIMATE)
    marks = [e for e in host if e.is_user_annotation and marked_phase(e.name)]
    marks.sort(key=lambda event: event.time_range.start)
    starts = [whole.start, *(mark.time_range.start for mark in marks[1:])]
    names = [marked_phase(mark.name) for mark in marks]
    rows: dict[tuple[str, str], Operator] = {}
    for phase, start, end in zip(names, starts, [*starts[1:], whole.end], strict=True):
        row = rows.setdefault((phase, OUTSIDE), Operator(phase, OUTSIDE))
        row.total_seconds += (end - start) * 1e-6
    for event in host:
        # An autograd thread works for the phase that waits for it.
        index = bisect_right(starts, event.time_range.start) - 1
        outside = index < 0 or event.time_range.start >= whole.end
        if outside or event.name == ESTIMATE or marked_phase(event.name):
            continue
        row = rows.setdefault((names[index], event.name), Operator(names[index], event.name))
        row.calls += 1
        row.self_seconds += event.self_cpu_time_total * 1e-6
        row.total_seconds += event.cpu_time_total * 1e-6
        row.self_bytes += event.self_cpu_memory_usage + event.self_device_memory_usage
        row.device_seconds += event.self_device_time_total * 1e-6
    for phase in set(names):
        within = sum(row.self_seconds for row in rows.values() if row.phase == phase)
        rest = rows[phase, OUTSIDE]
        rest.self_seconds = rest.total_seconds = rest.total_seconds - within
    return sorted(rows.values(), key=lambda row: -row.self_seconds)


def collapse(trace: dict[str, Any], root: FunctionType) -> Stacks:
    """Sum the nanoseconds of each stack of Python frames and operators below a function.

    Frames and operators of all threads count as one: an autograd thread works while the one that
    called it waits. Marks of phases and the calls inside them are left out.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    code = root.__code__
    frame = f"{Path(code.co_filename).name}({code.co_firstlineno}): {code.co_name}"
    whole = next((event for event in events if event["name"].endswith(frame)), None)
    if whole is None:
        return {}
    start, end = whole["ts"], whole["ts"] + whole["dur"]
    edges: list[_Edge] = []
    for number, event in enumerate(events):
        name, kind = event["name"], event.get("cat")
        first, last = event["ts"], event["ts"] + event["dur"]
        if kind == "user_annotation" and marked_phase(name):
            edges.append(_Edge(first, 2, 0.0, number, marked_phase(name)))
        elif kind in _FRAMES and start <= first < last <= end and event is not whole:
            # At the same time, frames end before others begin, and the longest begins first.
            edges.append(_Edge(last, 0, event["dur"], number, ""))
            edges.append(_Edge(first, 1, -event["dur"], number, _frame_name(name)))
    return _sum_stacks(sorted(edges), start, end)


class _Edge(NamedTuple):
    """The end (0) or beginning (1) of a frame, or the beginning of a phase (2)."""

    time: float
    kind: int
    order: float
    number: int
    name: str


def _sum_stacks(edges: list[_Edge], start: float, end: float) -> Stacks:
    sums: Counter[tuple[str, ...]] = Counter()
    phase, now = str(Phase.META_GRADIENT), start
    stack: dict[int, str] = {}
    for edge in [*edges, _Edge(end, 2, 0.0, 0, phase)]:
        time = min(max(edge.time, start), end)
        if time > now:
            if not any(name.startswith(_MARKS) for name in stack.values()):
                sums[phase, *stack.values()] += round((time - now) * 1000)
            now = time
        if edge.kind == 2:
            phase = edge.name
        elif edge.kind == 1:
            stack[edge.number] = edge.name
        else:
            del stack[edge.number]
    return {frames: spent for frames, spent in sums.items() if spent}


def _frame_name(name: str) -> str:
    """Return a frame's name without addresses, and without characters that would end it."""
    return _ADDRESS.sub("", name).removeprefix(_ROOT).replace(";", ":").replace("\n", " ")
