"""The phases of an estimate in what torch's profiler records.

A phase can begin in the midst of an operator: in a hook of the backward pass. A range from there
on would cut the operator in two, which neither torch's sums nor trace viewers can take. So each
beginning is a mark, a range of next to no length, and phases are put together from marks.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.profiler import record_function

from estimators.base.phases import Phase, watched

ESTIMATE = "estimate"
"""The range around all phases."""

_MARK = "phase: "
_TRACK = 0  # no thread has this number


@contextmanager
def marked_phases() -> Generator[None]:
    """Opens the range `ESTIMATE`, and marks in it where phases begin."""

    def begin(phase: Phase) -> None:
        with record_function(_MARK + phase):
            pass

    with record_function(ESTIMATE):
        begin(Phase.META_GRADIENT)
        with watched(begin):
            yield


def phase_begun(name: str) -> str:
    """Returns the phase that an event of this name marks the beginning of; empty for others.

    Example:
        >>> phase_begun("phase: inner loop")
        'inner loop'
    """
    return name.removeprefix(_MARK) if name.startswith(_MARK) else ""


def show_phases(trace: dict[str, Any]) -> None:
    """Puts phases in the place of marks, on a track of their own above the threads."""
    events = trace["traceEvents"]
    notes = [event for event in events if event.get("cat") == "user_annotation"]
    marks = sorted((e for e in notes if phase_begun(e["name"])), key=lambda event: event["ts"])
    (whole,) = (event for event in notes if event["name"] == ESTIMATE)
    lane = {"pid": whole["pid"], "tid": _TRACK, "ts": whole["ts"]}
    shown = [
        {"ph": "M", "name": "thread_name", "args": {"name": "phases"}, **lane},
        {"ph": "M", "name": "thread_sort_index", "args": {"sort_index": -1}, **lane},
    ]
    changes = [mark["ts"] for mark in marks[1:]]
    starts, ends = [whole["ts"], *changes], [*changes, whole["ts"] + whole["dur"]]
    for mark, start, end in zip(marks, starts, ends, strict=True):
        name = phase_begun(mark["name"])
        span = {"ph": "X", "cat": "phase", "name": name, **lane, "ts": start, "dur": end - start}
        shown.append(span)
    kept = [event for event in events if not phase_begun(event.get("name", ""))]
    trace["traceEvents"] = [*kept, *shown]
