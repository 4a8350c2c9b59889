"""The figure of a metric over commits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest
import vl_convert

from harness.history.changes import changes
from reports.figures.history import over_commits
from tests.support.series import commit, noise, series

ORDERED = ("truncated(order=1)", "truncated(order=2)")


def drawn(rows: pd.DataFrame) -> dict[str, Any]:
    spec: dict[str, Any] = over_commits(rows, changes(rows)).to_dict()
    shown = vl_convert.vegalite_to_svg(json.dumps(spec | {"width": 600}))
    assert shown.startswith("<svg")
    return spec


def layers(spec: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    return [layer for layer in spec["layer"] if layer["mark"]["type"] == mark]


def data(spec: dict[str, Any], layer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["datasets"][layer["data"]["name"]]
    return found


def rings(spec: dict[str, Any]) -> list[dict[str, Any]]:
    ringed = [layer for layer in layers(spec, "point") if not layer["mark"]["filled"]]
    return [row for layer in ringed for row in data(spec, layer)]


def points(spec: dict[str, Any]) -> list[dict[str, Any]]:
    (filled,) = (layer for layer in layers(spec, "point") if layer["mark"]["filled"])
    return data(spec, filled)


def named(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows behind the names of changes."""
    (layer,) = (one for one in layers(spec, "text") if one["encoding"]["text"]["field"] == "label")
    return data(spec, layer)


def stepped(count: int, estimators: Sequence[str] = ("maml", "fomaml", *ORDERED)) -> Any:
    lines: Mapping[str, list[float | str | None]] = {
        name: [*noise(seed, count, 0.02)] for seed, name in enumerate(estimators)
    }
    lines["maml"][count // 2 :] = [2 * value for value in noise(9, count - count // 2, 0.02)]
    return series("time", lines)


def test_a_line_for_each_estimator_and_a_ring_for_each_change() -> None:
    spec = drawn(stepped(20))
    assert {row["line"] for row in points(spec)} == {0, 1, 2, 3}
    assert len(points(spec)) == 80
    assert points(spec)[0]["value"] == pytest.approx(1000 * noise(0, 20, 0.02)[0])  # in ms
    (ring,) = rings(spec)
    assert (ring["estimator"], ring["commit"], ring["verdict"]) == ("maml", commit(10), "worse")
    assert ring["after"] == pytest.approx(2000, rel=0.05)
    name, _, ratio = named(spec)[0]["label"].partition(" ×")
    assert name == commit(10)[:8]
    assert float(ratio) == pytest.approx(2, rel=0.05)
    assert spec["title"]["text"] == "Time over commits"
    assert "here, numbers: order L, bars: quartiles of each run" in spec["title"]["subtitle"]
    assert spec["width"] == "container"
    (filled,) = (layer for layer in layers(spec, "point") if layer["mark"]["filled"])
    titles = [tip.get("title", tip["field"]) for tip in filled["encoding"]["tooltip"]]
    assert titles[:5] == ["estimator", "commit", "subject", "date", "time (ms)"]
    first = points(spec)[0]
    assert (first["subject"], first["day"]) == ("subject 0", "2026-01-01 00:00")
    assert len(layers(spec, "rule")) == 2  # bars, and where there is a change


def test_of_many_commits_some_are_named() -> None:
    spec = drawn(stepped(200))
    axis = layers(spec, "line")[0]["encoding"]["x"]["axis"]
    assert 8 <= len(axis["values"]) <= 16
    assert axis["values"][-1] == 199
    names = json.loads(axis["labelExpr"].removesuffix("[datum.value]"))
    assert names["199"] == commit(199)[:8]


def test_commits_without_a_value_keep_their_place() -> None:
    spec = drawn(
        series("hvps", {"maml": [5.0, None, "failed", 7.0], "fomaml": [0.0, 0.0, 0.0, 0.0]})
    )
    assert {row["place"] for row in points(spec) if row["estimator"] == "maml"} == {0, 3}
    assert [ring["unmeasured"] for ring in rings(spec)] == [2]


def test_metrics_that_repeat_have_no_bars() -> None:
    rows = series("bias", {"maml": [1e-17] * 4, "fomaml": [0.3] * 4})
    spec = drawn(rows.assign(low=rows["value"] / 2, high=rows["value"] * 2))
    assert layers(spec, "rule") == []
    assert {row["drawn"] for row in points(spec) if row["estimator"] == "maml"} != {1e-17}


def test_machines_have_lines_of_their_own() -> None:
    rows = [stepped(20, ["maml"]), stepped(20, ["maml"]).assign(fingerprint="beef")]
    spec = drawn(pd.concat(rows, ignore_index=True))
    assert {row["line"] for row in points(spec)} == {0, 1}
    assert {row["machine_label"] for row in points(spec)} == {"here f00d", "here beef"}
    assert len(rings(spec)) == 2


def test_only_the_largest_of_near_changes_is_named() -> None:
    line = [1.0] * 20 + [2.0] + [6.0] * 20 + [5.0] * 20
    spec = drawn(series("hvps", {"maml": line}))
    names = {row["place"]: row["label"] for row in named(spec)}
    assert names == {20: "", 21: f"{commit(21)[:8]} ×3", 41: f"{commit(41)[:8]} ×0.833"}


def test_orders_at_the_ends_of_lines_stand_apart() -> None:
    spec = drawn(series("hvps", {name: [2.0] * 4 for name in ("binom(order=2)", *ORDERED)}))
    (ends,) = layers(spec, "text")
    assert len({row["drawn"] for row in data(spec, ends)}) == 3


def test_benchmarks_of_asv_alone_are_drawn() -> None:
    rows = stepped(20).assign(metric="headline.Headline.time_sinusoid", unit="seconds", task="")
    spec = drawn(rows.assign(model="", device="", depth=pd.array([pd.NA] * 80, dtype="Int64")))
    assert spec["title"]["text"] == "headline.Headline.time_sinusoid over commits"
    assert len(rings(spec)) == 1
    axis = layers(spec, "line")[0]["encoding"]["y"]
    assert axis["title"] == "headline.Headline.time_sinusoid (seconds)"
    assert spec["title"]["subtitle"] == ["here, numbers: order L, bars: quartiles of each run"]


def test_few_commits_or_none() -> None:
    lines: list[list[float | str | None]] = [[], ["failed"], [float("nan")]]
    for line in lines:
        spec = drawn(series("time", {"maml": line}))
        assert "No commit here has these numbers." in json.dumps(spec), line
    assert len(points(drawn(series("time", {"maml": [1.0], "fomaml": [0.5]})))) == 2
