"""Profiles in the static report: figures that are right, text that is escaped, pages that hold."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.cell import Cell
from harness.profiling.folder import SCHEMA, Profile, profile_of, read_profile
from reports import static
from reports.figures import profiles
from reports.figures.style import Chart
from tests.support.profile_files import INNER, META, OUTER, write_profile
from tests.support.stores import MARKUP, write_store


def cell_of(depth: int) -> Cell:
    return Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=depth)


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return read_profile(write_profile(tmp_path, cell_of(3)))


def rows_of(chart: Chart) -> list[dict[str, Any]]:
    """Return the rows of a chart that keeps to the schema, largest table first."""
    tables = chart.to_dict()["datasets"].values()
    rows: list[dict[str, Any]] = max(tables, key=len)
    return rows


def test_memory_by_event_with_its_peak_and_shares_of_phases(profile: Profile) -> None:
    chart = profiles.memory_timeline(profile)
    rows = rows_of(chart)
    assert [row["live"] for row in rows] == [100, 300, 200, 700, 0]
    assert [row["phase"] for row in rows] == [INNER, INNER, OUTER, META, META]
    (peak,) = min(chart.to_dict()["datasets"].values(), key=len)
    assert (peak["event"], peak["live"]) == (3, 700)
    assert re.search(r"700 B.*meta-gradient", json.dumps(chart.to_dict()))
    shares = {row["phase"]: row["share"] for row in rows_of(profiles.time_by_phase(profile))}
    assert shares == {INNER: 0.75, META: 0.25}


def test_a_long_timeline_keeps_its_peaks(profile: Profile) -> None:
    lives = [5] * 100_000
    lives[77_777] = 9000
    events = {"bytes": 1, "live": lives, "phase": INNER, "operator": ""}
    profile.__dict__["memory"] = pd.DataFrame(events)
    rows = rows_of(profiles.memory_timeline(profile))
    assert len(rows) <= 600
    assert max(row["live"] for row in rows) == pytest.approx(9000 / 1024)
    assert [row["event"] for row in rows if row["live"] > 1] == [pytest.approx(77_777, abs=170)]


def test_flames_stand_under_their_callers(profile: Profile) -> None:
    rows = rows_of(profiles.flames(profile))
    boxes = {(row["phase"], row["frame"]): row for row in rows}
    assert (OUTER, "tiny") not in boxes
    run, product = boxes[INNER, "e.py(1): run"], boxes[INNER, "aten::mm"]
    assert run["share"] == pytest.approx(0.5, rel=1e-4)
    assert product["share"] == pytest.approx(0.375, rel=1e-4)
    assert product["depth"] == run["depth"] + 1
    assert run["start"] <= product["start"] < product["end"] <= run["end"]
    assert product["shade"] > run["shade"] == boxes[META, "nn.Module: Linear_0"]["shade"]
    roots = sorted((row["start"], row["end"]) for row in rows if row["depth"] == 0)
    assert [start for start, _ in roots] == pytest.approx([0, 0.5, 0.75], abs=1e-4)
    assert roots[-1][1] == pytest.approx(1, rel=1e-4)


def test_stacks_of_unknown_phases_stand_behind_the_others(profile: Profile) -> None:
    profile.__dict__["stacks"] = {("warm-up", "f"): 3, (META, "f"): 1}
    starts = {row["phase"]: row["start"] for row in rows_of(profiles.flames(profile))}
    assert starts == {META: 0, "warm-up": 0.25}


def test_names_that_look_like_numbers_are_names(profile: Profile) -> None:
    head = "phase,operator,shape,dtype,count,bytes\n"
    (profile.folder / "tensors.csv").write_text(f"{head}1,2,40,float32,2,700\n")
    tensors = read_profile(profile.folder).tensors
    assert tensors.iloc[0].to_list() == ["1", "2", "40", "float32", 2, 700]


def test_the_report_shows_each_profile_and_names_broken_ones(tmp_path: Path) -> None:
    write_store(tmp_path)
    write_profile(tmp_path, cell_of(3))
    bare = write_profile(tmp_path, cell_of(4))
    for name in ("memory.csv", "tensors.csv"):  # one that allocates nothing
        (bare / name).write_text((bare / name).read_text().splitlines()[0] + "\n")
    contents = {
        "profile.json": json.dumps({"schema": SCHEMA}),
        "memory.csv": "",
        "stacks.txt": "no number\n",
    }
    broken = []
    for depth, (name, content) in enumerate(contents.items(), start=5):
        broken.append(write_profile(tmp_path, cell_of(depth)))
        (broken[-1] / name).write_text(content)
    (tmp_path / "profiles" / ".profile-0123").mkdir()  # one that is being written
    shown, faults = profiles.stored(tmp_path)
    assert {one.summary["cell"] for one in shown} == {cell_of(3).id, cell_of(4).id}
    assert len(faults) == 3
    page = static.render(tmp_path).page
    for folder in broken:
        assert any(folder.name in fault for fault in faults)
        assert folder.name in page
    assert page.count('id="profiles"') == page.count('href="#profiles"') == 1
    section = page[page.index('id="profiles"') :]
    for depth in (3, 4):
        assert f"<summary>{cell_of(depth).id}</summary>" in section
    assert section.count('<script type="application/json">') >= 2 * 3
    assert section.count(">10 x 40<") == 1
    assert "ccccccc" in section
    assert MARKUP not in page
    assert "a note &lt;script&gt;" in section
    assert "<script>alert" not in page
    assert len(re.findall(r"<script[ >]", page)) == page.count("</script>")


def test_only_the_newest_profiles_are_shown(tmp_path: Path) -> None:
    for depth in range(1, profiles.MOST + 3):
        write_profile(tmp_path, cell_of(depth), at=f"2026-01-{depth:02}T00:00:00+00:00")
    shown, faults = profiles.stored(tmp_path)
    depths = [Cell.parse(one.summary["cell"]).depth for one in shown]
    assert depths == list(range(profiles.MOST + 2, 2, -1))
    assert faults == []


ABSENT = object()
WRONG = [
    *[(name, ABSENT) for name in ("cell", "at", "environment", "seconds", "peak_memory")],
    *[(name, ABSENT) for name in ("peak_phase", "notes", "phases")],
    *[("cell", 7), ("cell", "half a \ud800"), ("at", None), ("peak_phase", None)],
    *[("seconds", 0), ("seconds", "1"), ("seconds", 10**400), ("peak_memory", None)],
    *[("environment", []), ("environment", {"commit": None, "changes": "", "machine": ""})],
    *[("notes", "text"), ("notes", [1]), ("phases", []), ("phases", {INNER: 1})],
    *[("phases", {INNER: {"seconds": None, "device_seconds": 0}}), ("seconds", math.nan)],
    ("phases", {INNER: {"seconds": 1, "device_seconds": 0, "peak_memory": "much"}}),
]


def test_a_foreign_summary_is_no_profile(tmp_path: Path) -> None:
    path = write_profile(tmp_path, cell_of(3)) / "profile.json"
    whole = json.loads(path.read_text())
    for name, value in [("schema", 0), *WRONG]:
        changed = whole | {name: value}
        if value is ABSENT:
            del changed[name]
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=name):
            read_profile(path.parent)
        assert profile_of(tmp_path, cell_of(3).id) is None, (name, value)


BROKEN = [
    *[(name, None) for name in ("memory.csv", "operators.csv", "tensors.csv", "stacks.txt")],
    *[("memory.csv", ""), ("memory.csv", "live,phase\n1,a\n"), ("tensors.csv", "a,b\n1,2\n")],
    *[("memory.csv", f"bytes,live,phase,operator\n1,{live},a,b\n") for live in ("much", "", "inf")],
]


def test_half_a_profile_is_passed_over(tmp_path: Path) -> None:
    for number, (name, content) in enumerate(BROKEN):
        store = tmp_path / str(number)
        folder = write_profile(store, cell_of(3))
        whole = profile_of(store, cell_of(3).id)
        assert whole is not None
        assert whole.folder == folder
        assert profile_of(store, cell_of(4).id) is None
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_text(content)
        assert profile_of(store, cell_of(3).id) is None, (name, content)
        # Another one of the same cell, kept under another name, takes its place.
        write_profile(store, cell_of(3), folder=store / "profiles" / "zzz")
        other = profile_of(store, cell_of(3).id)
        assert other is not None
        assert other.folder.name == "zzz"
