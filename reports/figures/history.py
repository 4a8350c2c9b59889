"""A metric over commits."""

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from harness.history import KEY
from harness.history.differences import noisy
from harness.matrix.metrics import METRICS
from reports.figures import marks, style
from reports.figures.lines import apart
from reports.figures.scales import on_axis
from reports.figures.style import GREY, Chart, Rows
from reports.tables.cells import family_and_order

_LABELS = 16  # commits that are named along the axis
_ROOM = 0.15  # share of the width that the name of a change takes
_CROWD = 40  # commits, beyond which points are small
_WIDE = 20.0  # largest over smallest value, beyond which the axis is logarithmic
_NEAR = 0.04  # share of the height that the name of a line's end takes

_DRAWN = ["drawn", "drawn_low", "drawn_high"]
_POINT = ["line", "family", "estimator", "place", "commit", "subject", "day", "machine_label"]
_CHANGE = [*KEY, "commit", "previous", "unmeasured", "before", "after", "ratio", "verdict"]


def over_commits(rows: Rows, changes: Rows) -> Chart:
    """Plot a metric over commits, a line for each estimator.

    A ring marks the first commit that has a new level. Above stands which commit that is, with the
    largest ratio of a new level to the old one there.
    """
    measured = rows[(rows["metric"] != "") & np.isfinite(rows["value"].astype(float))]
    if measured.empty:
        return style.nothing("History", "No commit here has these numbers.")
    name = str(measured["metric"].iloc[0])
    commits = rows.sort_values("position")["commit"].drop_duplicates().to_list()
    shown, y = _on_axis(_prepared(measured, name, commits), name)
    families = [*shown["family"]]
    points = alt.Chart(shown[[*_POINT, "value", "low", "high", *_DRAWN]])
    points = points.encode(x=_commit_axis(commits), y=y)
    dots = marks.points(points, families).encode(tooltip=_tooltip(name))
    dots = dots.mark_point(filled=True, opacity=1, size=75 if len(commits) <= _CROWD else 20)
    ends = alt.Chart(_line_ends(shown, log=y["scale"]["type"] == "log")).encode(
        x=points.encoding.x, y=points.encoding.y
    )
    changed = shown.drop(columns="unit").merge(changes[_CHANGE], on=[*KEY, "commit"])
    layers = [
        *_rules(changed, points, len(commits)),
        marks.lines(points, families, "line", "place"),
        *marks.bars(points, families, "y"),
        dots,
        *_rings(changed, points, name),
        marks.labels(ends, families, "order", above=False),
    ]
    # A kernel is of no estimator.
    return style.figure(_heading(shown, name), layers, legend=any(families))


def _prepared(rows: Rows, name: str, commits: list[str]) -> Rows:
    """Return the rows with the columns that are drawn, in the shown unit."""
    size = METRICS[name].scale if name in METRICS else 1.0
    specs = {text: family_and_order(text) for text in rows["estimator"].unique()}
    several = (rows["machine"] + rows["fingerprint"]).nunique() > 1
    # What repeats has no interval: that of bias is over tasks, and the same at every commit.
    loud = noisy(rows["metric"])
    rows = rows.assign(
        value=rows["value"] / size,
        low=(rows["low"] / size).where(loud),
        high=(rows["high"] / size).where(loud),
        place=rows["commit"].map({commit: place for place, commit in enumerate(commits)}),
        machine_label=rows["machine"] + (" " + rows["fingerprint"] if several else ""),
        day=rows["date"].dt.strftime("%Y-%m-%d %H:%M").fillna(""),
        family=[specs[text][0] for text in rows["estimator"]],
        order=pd.array([specs[text][1] for text in rows["estimator"]], dtype="Int64"),
        line=(rows["cell"] + rows["machine"] + rows["fingerprint"]).factorize()[0],
    )
    return rows[style.few_orders(rows)]


def _on_axis(rows: Rows, name: str) -> tuple[Rows, Any]:
    """Return the rows with the columns `_DRAWN`, and the axis for them."""
    positive = rows.loc[rows["value"] > 0, "value"]
    wide = len(positive) > 0 and positive.max() > _WIDE * positive.min()
    if name in METRICS:
        named = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        scaled, y = on_axis(rows.rename(columns=named), "y", name, log=wide)
        drawn = [f"{name}_drawn{end}" for end in ("", "_low", "_high")]
        rows = rows.assign(**{to: scaled[of] for to, of in zip(_DRAWN, drawn, strict=True)})
        y = marks.like(y, "drawn")
    else:  # a benchmark of asv's own
        scale = alt.Scale(type="log" if wide else "linear", nice=False, padding=18)
        y = alt.Y("drawn:Q", title=f"{name} ({rows['unit'].iloc[0]})", scale=scale)
        rows = rows.assign(drawn=rows["value"], drawn_low=rows["low"], drawn_high=rows["high"])
    if not wide:  # so that steps are visible
        y["scale"] = alt.Scale(type="linear", zero=False, padding=18)
    return rows, y


def _commit_axis(commits: list[str]) -> alt.X:
    step = -(-len(commits) // _LABELS)
    places = list(range(len(commits)))[::-1][::step]
    names = {place: commits[place][:8] for place in places}
    axis = alt.Axis(
        values=places[::-1],
        labelExpr=f"{json.dumps(names)}[datum.value]",
        labelAngle=-45,
        labelOverlap=False,
        grid=False,
    )
    scale = alt.Scale(domain=[0, max(len(commits) - 1, 1)], nice=False, padding=24)
    return alt.X("place:Q", title="commit, oldest first", axis=axis, scale=scale)


def _line_ends(rows: Rows, *, log: bool) -> Rows:
    """Return a row for the end of each line with an order, none nearer to another than a gap."""
    last = rows.sort_values("place").drop_duplicates("line", keep="last")
    last = last[last["order"].notna()].sort_values("drawn")
    heights = np.log(last["drawn"]) if log else last["drawn"]
    every = np.log(rows["drawn"]) if log else rows["drawn"]
    gap = _NEAR * max(float(np.ptp(every)), 1e-9)
    places = np.array(apart(heights.to_numpy(dtype=float), gap, float(every.max())))
    return last[["family", "place", "order"]].assign(drawn=np.exp(places) if log else places)


def _rules(changed: Rows, points: alt.Chart, commits: int) -> list[alt.Chart]:
    """Draw where something changed, and names the largest changes that there is room for."""
    if changed.empty:
        return []
    size = np.abs(np.log(changed["ratio"].abs().replace(0.0, np.inf)))
    largest = changed.assign(size=size).sort_values("size", ascending=False)
    largest = largest.drop_duplicates("place")
    named: list[int] = []
    for place in largest["place"].to_list():
        if all(abs(place - other) > _ROOM * commits for other in named):
            named.append(place)
    text = largest["commit"].str.slice(0, 8) + [f" ×{ratio:.3g}" for ratio in largest["ratio"]]
    data = largest[["place"]].assign(label=text.where(largest["place"].isin(named), ""))
    at = alt.Chart(data).encode(x=points.encoding.x)
    above: dict[str, Any] = {"color": GREY, "fontSize": 10, "baseline": "bottom", "dy": -3}
    return [
        at.mark_rule(color=GREY, strokeDash=[3, 3], opacity=0.6),
        at.mark_text(**above).encode(text=alt.Text("label:N"), y=alt.value(0)),
    ]


def _rings(changed: Rows, points: alt.Chart, name: str) -> list[alt.Chart]:
    if changed.empty:
        return []
    size = METRICS[name].scale if name in METRICS else 1.0
    data = changed[[*_POINT, *_DRAWN, *_CHANGE[len(KEY) + 1 :]]]
    data = data.assign(before=data["before"] / size, after=data["after"] / size)
    tips = [
        *(alt.Tooltip(f"{one}:N") for one in ("estimator", "commit", "subject")),
        alt.Tooltip("day:N", title="date"),
        *(alt.Tooltip(f"{one}:Q", format=".5~g") for one in ("before", "after", "ratio")),
        alt.Tooltip("verdict:N"),
        alt.Tooltip("previous:N", title="commit before"),
        alt.Tooltip("unmeasured:Q", title="unmeasured between"),
        alt.Tooltip("machine_label:N", title="machine"),
    ]
    at = alt.Chart(data).encode(x=points.encoding.x, y=points.encoding.y)
    return [
        at.mark_point(filled=False, color=GREY, size=260, strokeWidth=2, opacity=1).encode(
            tooltip=tips
        )
    ]


def _tooltip(name: str) -> list[alt.Tooltip]:
    value = METRICS[name].title if name in METRICS else name
    return [
        *(alt.Tooltip(f"{one}:N") for one in ("estimator", "commit", "subject")),
        alt.Tooltip("day:N", title="date"),
        alt.Tooltip("value:Q", title=value, format=".5~g"),
        *(alt.Tooltip(f"{one}:Q", format=".5~g") for one in ("low", "high")),
        alt.Tooltip("machine_label:N", title="machine"),
    ]


def _heading(rows: Rows, name: str) -> alt.TitleParams:
    label = METRICS[name].label if name in METRICS else ""
    title = f"{label[:1].upper() + label[1:] or name} over commits"
    bars = "bars: quartiles of each run" if rows["low"].notna().any() else ""
    numbered = style.numbered(rows)
    machine = rows["machine"].iloc[0] if rows["machine"].nunique() == 1 else ""
    notes = ", ".join(note for note in (machine, numbered, bars) if note)
    unknown = [one for one in ("task", "model", "device") if (rows[one] == "").all()]
    heading = style.title_of(title, rows.drop(columns=unknown), notes)
    heading.offset = 22  # room for the names of changes
    return heading
