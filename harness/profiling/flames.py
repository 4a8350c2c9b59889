"""Collapsed stacks, which flame graphs are drawn from, out of a Chrome trace."""

import re
from collections import Counter
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from estimators.base import phases
from estimators.base.phases import Phase
from harness.profiling.marks import phase_begun

Stacks = dict[tuple[str, ...], int]
"""Nanoseconds by stack: the phase, then frames from the outermost one."""

_ADDRESS = re.compile(r" (object )?at 0x[0-9a-f]+")
_ROOT = f"{Path(phases.__file__).parents[1]}/"
_FRAMES = ("python_function", "cpu_op")
_MARKS = "estimators/base/phases.py("


def collapse(trace: dict[str, Any], root: FunctionType) -> Stacks:
    """Sums the time of each stack of Python frames and operators below a function.

    Frames and operators of all threads count as one: an autograd thread works while the one that
    called it waits. The marks of phases and what they call are left out.

    Returns:
        Nanoseconds by stack.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    code = root.__code__
    named = f"{Path(code.co_filename).name}({code.co_firstlineno}): {code.co_name}"
    whole = next((event for event in events if event["name"].endswith(named)), None)
    if whole is None:
        return {}
    start, end = whole["ts"], whole["ts"] + whole["dur"]
    changes: list[_Change] = []
    for number, event in enumerate(events):
        name, kind = event["name"], event.get("cat")
        first, last = event["ts"], event["ts"] + event["dur"]
        if kind == "user_annotation" and phase_begun(name):
            changes.append(_Change(first, 2, 0.0, number, phase_begun(name)))
        elif kind in _FRAMES and start <= first < last <= end and event is not whole:
            # At one moment frames end before others begin, and the long one begins first.
            changes.append(_Change(last, 0, event["dur"], number, ""))
            changes.append(_Change(first, 1, -event["dur"], number, _frame(name)))
    return _swept(sorted(changes), start, end)


class _Change(NamedTuple):
    """A frame that ends (0) or begins (1), or a phase that begins (2)."""

    moment: float
    kind: int
    order: float
    number: int
    name: str


def _swept(changes: list[_Change], start: float, end: float) -> Stacks:
    sums: Counter[tuple[str, ...]] = Counter()
    phase, now = str(Phase.META_GRADIENT), start
    stack: dict[int, str] = {}
    for change in [*changes, _Change(end, 2, 0.0, 0, phase)]:
        moment = min(max(change.moment, start), end)
        if moment > now:
            if not any(name.startswith(_MARKS) for name in stack.values()):
                sums[phase, *stack.values()] += round((moment - now) * 1000)
            now = moment
        if change.kind == 2:
            phase = change.name
        elif change.kind == 1:
            stack[change.number] = change.name
        else:
            del stack[change.number]
    return {frames: spent for frames, spent in sums.items() if spent}


def _frame(name: str) -> str:
    """Returns a frame's name without what differs from run to run or would end it."""
    return _ADDRESS.sub("", name).removeprefix(_ROOT).replace(";", ":").replace("\n", " ")


def write_stacks(stacks: Stacks, path: Path) -> None:
    """Writes stacks in the collapsed format: frames joined by ";", a blank, nanoseconds."""
    lines = (f"{';'.join(frames)} {spent}\n" for frames, spent in sorted(stacks.items()))
    path.write_text("".join(lines), encoding="utf-8")


def read_stacks(path: Path) -> Stacks:
    """Reads what `write_stacks` has written.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is none of a stack.
    """
    stacks: Stacks = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        frames, _, spent = line.rpartition(" ")
        stacks[tuple(frames.split(";"))] = int(spent)
    return stacks
