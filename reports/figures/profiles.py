"""Figures of a profile: memory over allocations, time by phase, flames."""

from pathlib import Path

import altair as alt
import pandas as pd

from harness.profiling import FOLDER
from harness.profiling.folder import Profile, read_profile
from harness.profiling.report import peak_text, short_name
from harness.support.units import seconds_text
from reports.figures.marks import phase_colour
from reports.figures.style import HEIGHT, PHASES, Chart, figure, heading

MOST = 6
"""The number of profiles of a store that a report shows, the newest ones."""

_STEPS = 600  # of the memory timeline: more than a figure has room for
_NARROWEST = 0.003  # share of the whole time that a frame must have to be drawn
_DEEPEST = 40
_ROW = 16  # pixels
_TOP = 12
_LABELLED = 0.03


def stored(store: Path) -> tuple[list[Profile], list[str]]:
    """Read the `MOST` newest profiles of a store; return a line for each that cannot be read."""
    profiles, faults = [], []
    for folder in sorted((store / FOLDER).glob("[!.]*")):
        try:
            profiles.append(read_profile(folder))
        except (OSError, ValueError) as error:
            faults.append(f"the profile {folder.name} cannot be read: {error}")
    profiles.sort(key=lambda profile: str(profile.summary["at"]), reverse=True)
    return profiles[:MOST], faults


def about(profile: Profile) -> str:
    """Return where and when a profile was taken."""
    environment = profile.summary["environment"]
    commit = environment["commit"][:8] or "unknown commit"
    changes = " (uncommitted changes)" if environment["changes"] else ""
    when = profile.summary["at"][:16].replace("T", " ")
    return f"{commit}{changes}, {when} UTC, {environment['machine']}"


def memory_timeline(profile: Profile) -> Chart:
    """Plot the bytes alive after each allocation and release, by phase, with the peak marked."""
    events = profile.memory
    title = heading("Memory over allocations and releases", peak_text(profile.summary))
    size, unit = _unit(events["live"].max() if len(events) else 0)
    rows = _steps(events).assign(live=lambda rows: rows["live"] / size)
    peak = rows[rows["live"] == rows["live"].max()].head(1)
    x = alt.X("event:Q", title="allocations and releases so far", scale=alt.Scale(nice=False))
    y = alt.Y("live:Q", title=f"live tensors ({unit})", scale=alt.Scale(zero=True))
    tips = [
        alt.Tooltip("phase:N"),
        alt.Tooltip("live:Q", title=unit, format=".4~g"),
        alt.Tooltip("operator:N", title="allocated by"),
    ]
    bars = alt.Chart(rows).mark_rect(strokeWidth=0)
    layers = [
        bars.encode(x=x, x2="end:Q", y=y, y2=alt.value(HEIGHT), color=phase_colour(), tooltip=tips),
        alt.Chart(peak)
        .mark_point(shape="triangle-down", filled=True, size=90, color="#D55E00", yOffset=-7)
        .encode(x=x, y=y, tooltip=tips),
    ]
    return figure(title, layers, HEIGHT)


def time_by_phase(profile: Profile) -> Chart:
    """Plot the time of each phase as parts of one bar."""
    whole = profile.summary["seconds"]
    rows = pd.DataFrame(
        [
            {
                "phase": phase,
                "share": sums["seconds"] / whole,
                "time": seconds_text(sums["seconds"]),
            }
            for phase, sums in profile.summary["phases"].items()
        ]
    )
    title = heading("Time by phase", f"{seconds_text(whole)} under the profiler")
    tips = [alt.Tooltip("phase:N"), alt.Tooltip("share:Q", format=".0%"), alt.Tooltip("time:N")]
    bars = alt.Chart(rows).mark_bar(height=30)
    bars = bars.encode(
        x=alt.X("share:Q", title=None, stack="zero", axis=alt.Axis(format="%"), scale=_WHOLE),
        color=phase_colour(),
        order=alt.Order("rank:Q"),
        tooltip=tips,
    ).transform_calculate(rank=f"indexof({[*PHASES]}, datum.phase)")
    return figure(title, [bars], 40)


def flames(profile: Profile) -> Chart:
    """Plot the time of stacks: callers above callees."""
    frames = _frames(profile)
    title = heading("Where the time goes", "callers above callees; operators in stronger colours")
    depth = int(frames["depth"].max()) + 1 if len(frames) else 1
    x = alt.X("start:Q", title=None, axis=alt.Axis(format="%", grid=False), scale=_WHOLE)
    y = alt.Y("depth:Q", axis=None, scale=alt.Scale(domain=[0, depth], reverse=True, nice=False))
    tips = [
        alt.Tooltip("frame:N"),
        alt.Tooltip("phase:N"),
        alt.Tooltip("time:N", title="time with what it calls"),
        alt.Tooltip("share:Q", format=".1%"),
    ]
    base = alt.Chart(frames)
    boxes = base.mark_rect(stroke="white", strokeWidth=0.5).encode(
        x=x,
        x2="end:Q",
        y=y,
        y2="below:Q",
        color=phase_colour(),
        opacity=alt.Opacity("shade:Q", scale=None, legend=None),
        tooltip=tips,
    )
    names = base.transform_filter(f"datum.share > {_LABELLED}")
    # Vega cuts a text to so many pixels; 0 would mean no limit.
    limit = alt.ExprRef("max(1, scale('x', datum.end) - scale('x', datum.start) - 6)")
    labels = names.mark_text(align="left", baseline="middle", dx=3, fontSize=10, limit=limit)
    labels = labels.encode(
        x=x, y=alt.Y("middle:Q"), text="label:N", color=alt.value("currentColor")
    )
    return figure(title, [boxes, labels], depth * _ROW)


def top_operators(profile: Profile) -> pd.DataFrame:
    """Return the operators with the longest time in themselves, under the names to read."""
    rows, whole = profile.operators.head(_TOP), profile.summary["seconds"]
    device = {}
    if (profile.operators["device_seconds"] > 0).any():
        device = {"kernels (ms)": rows["device_seconds"] * 1e3}
    return pd.DataFrame(
        {
            "operator": rows["operator"].map(short_name),
            "phase": rows["phase"],
            "calls": rows["calls"],
            "time in itself (ms)": rows["self_seconds"] * 1e3,
            "share (%)": 100 * rows["self_seconds"] / whole,
            "with what it calls (ms)": rows["total_seconds"] * 1e3,
            **device,
        }
    )


def top_tensors(profile: Profile) -> pd.DataFrame:
    """Return the largest groups of tensors alive at the peak, under the names to read."""
    rows = profile.tensors.head(_TOP)
    return pd.DataFrame(
        {
            "made by": rows["operator"],
            "phase": rows["phase"],
            "count": rows["count"],
            "shape": rows["shape"],
            "dtype": rows["dtype"],
            "KiB": rows["bytes"] / 1024,
            "share (%)": 100 * rows["bytes"] / profile.summary["peak_memory"],
        }
    )


def _steps(events: pd.DataFrame) -> pd.DataFrame:
    """Return at most `_STEPS` stretches of a timeline, each with its highest point."""
    if events.empty:
        return pd.DataFrame(columns=["event", "end", "live", "phase", "operator"])
    width = -(-len(events) // _STEPS)
    highest = events.groupby(events.index // width)["live"].idxmax()
    rows: pd.DataFrame = events.loc[highest].reset_index(drop=True)
    starts = rows.index * width
    # Each lies a little under the next one, or the page shows between them.
    return rows.assign(event=starts, end=starts + 1.2 * width)


def _frames(profile: Profile) -> pd.DataFrame:
    """Return the boxes of a flame graph, those too narrow to be seen left out."""
    whole = sum(profile.stacks.values()) or 1
    sums: dict[tuple[str, ...], int] = {}
    for stack, spent in profile.stacks.items():
        for depth in range(1, min(len(stack), _DEEPEST) + 1):
            sums[stack[:depth]] = sums.get(stack[:depth], 0) + spent
    starts: dict[tuple[str, ...], int] = {(): 0}
    rows = []
    # What a caller calls stands below it, the wide ones first.
    for stack, spent in sorted(sums.items(), key=_callers_first):
        start = starts[stack[:-1]]
        starts[stack[:-1]], starts[stack] = start + spent, start
        if spent < _NARROWEST * whole:
            continue
        frame, depth = stack[-1], len(stack) - 1
        rows.append(
            {
                "frame": frame,
                "label": frame.rpartition(": ")[2],
                "phase": stack[0],
                "shade": 0.35 if depth == 0 or _is_python(frame) else 0.7,
                "depth": depth,
                "middle": depth + 0.5,
                "below": depth + 1,
                "start": start / whole,
                "end": (start + spent) / whole,
                "share": spent / whole,
                "time": seconds_text(spent * 1e-9),
            }
        )
    return pd.DataFrame(rows)


def _callers_first(item: tuple[tuple[str, ...], int]) -> tuple[int, int, int]:
    stack, spent = item
    names = [*PHASES]
    known = len(stack) == 1 and stack[0] in names  # others stand behind them
    return len(stack), names.index(stack[0]) if known else len(names), -spent


def _is_python(frame: str) -> bool:
    return ".py(" in frame or frame.startswith(("<", "nn.Module: "))


def _unit(most: float) -> tuple[int, str]:
    if most < 1000:
        return 1, "B"
    return (1024, "KiB") if most < 1000 * 1024 else (2**20, "MiB")


_WHOLE = alt.Scale(domain=[0, 1], nice=False)
