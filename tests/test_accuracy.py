"""Accuracy of trainings: tables against numbers made otherwise, intervals by simulation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.figures.accuracy import learning_curves, paired_differences, test_accuracy
from reports.figures.style import PALETTE
from reports.tables.accuracy import curves, differences, settings, test_results

AXES: dict[str, Any] = {
    **{"commit": "c0ffee" * 4, "task": "glyphs:5way-1shot", "model": "conv4-32", "depth": 5},
    **{"step_size": 0.01, "device": "cpu", "dtype": "float32", "outer": "optimiser=adam"},
}
MAML = ([0.5, 0.7, 0.6], [0.4, 0.4, 0.7])
BINOM = ([0.5, 0.6, 0.6], [0.5, 0.4, 0.7])
NAN = float("nan")


def rows(estimator: str, *seeds: Sequence[float] | np.ndarray[Any, Any], **more: Any) -> Any:
    """Rows of trainings with an estimator, one for each seed, with the samples of a test."""
    usual: dict[str, Any] = {"step": 100, "split": "test", "metric": "accuracy", "started": "2026"}
    about = AXES | usual | more
    name = f"{estimator} {about['task']} {about['started']}"
    return [
        {
            **about,
            "estimator": estimator,
            "training": f"{name} {seed}",
            "seed": seed,
            "samples": one,
        }
        for seed, one in enumerate(seeds)
    ]


def table(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])


def records(found: pd.DataFrame) -> list[Any]:
    return [*found.itertuples()]


def student(means: Any) -> Any:
    low, high = stats.t.interval(0.95, len(means) - 1, loc=np.mean(means), scale=stats.sem(means))
    return pytest.approx(low), pytest.approx(high)


def test_results_over_seeds_or_over_the_tasks_of_one() -> None:
    both = table(rows("maml", *MAML), rows("fomaml", BINOM[0]), rows("reptile", [0.5]))
    fomaml, maml, reptile = records(test_results(both, "accuracy"))
    assert (maml.seeds, maml.tasks, maml.over) == (2, 3, "seeds")
    assert maml.value == pytest.approx(55.0)
    assert (maml.low, maml.high) == student([60.0, 50.0])
    assert (maml.estimator, maml.family, maml.commit_label) == ("maml", "maml", "c0ffeec0")
    assert (fomaml.seeds, fomaml.tasks, fomaml.over) == (1, 3, "tasks")
    mean, half = 170 / 3, 1.96 * stats.sem([50.0, 60.0, 60.0])
    ends = (fomaml.low, fomaml.value, fomaml.high)
    assert ends == pytest.approx((mean - half, mean, mean + half))
    assert (reptile.value, reptile.over, reptile.seeds, reptile.tasks) == (50.0, "", 1, 1)
    assert np.isnan(reptile.low)
    # Of a loss the least is the best, and it is no per cent.
    parts = [rows(name, [x], metric="outer_loss") for name, x in (("maml", 0.9), ("fomaml", 0.2))]
    best, _ = records(test_results(table(*parts), "outer_loss"))
    assert (best.estimator, best.value) == ("fomaml", pytest.approx(0.2))


def test_curves() -> None:
    parts = [
        rows("binom(order=2)", *BINOM, step=step, split="validation", started=started)
        for step, started in ((0, "2026"), (100, "2026"))
    ]
    parts[1] = parts[1][:1]
    found = curves(table(*parts, rows("binom(order=2)", *MAML)), "accuracy", "validation")
    assert found["step"].to_list() == [0, 100]
    assert found["seeds"].to_list() == [2, 1]
    assert found["over"].to_list() == ["seeds", "tasks"]
    assert found["value"].to_list() == pytest.approx([55.0, 170 / 3])
    assert (found["low"][0], found["high"][0]) == student([170 / 3, 160 / 3])
    assert found["order"].to_list() == [2, 2]


def test_the_newest_that_was_tested_counts_or_else_the_one_that_got_furthest() -> None:
    old, new = rows("maml", [0.1], started="2026-01"), rows("maml", [0.2], started="2026-02")
    assert test_results(table(new, old), "accuracy")["value"].to_list() == [20.0]
    # Which step was the best is no matter of how far it got.
    newest = rows("maml", [0.3], started="2026-03", step=1)
    assert test_results(table(new, newest, old), "accuracy")["value"].to_list() == [30.0]
    far, near, again = (
        rows("maml", [value], started=started, step=step, split="validation")
        for value, started, step in ((0.4, "2026-04", 9), (0.5, "2026-05", 5), (0.6, "2026-06", 9))
    )
    judged = curves(table(far, near), "accuracy", "validation")
    assert judged["value"].to_list() == pytest.approx([40.0])
    judged = curves(table(far, again, near), "accuracy", "validation")
    assert judged["value"].to_list() == pytest.approx([60.0])


def test_settings_are_never_mixed() -> None:
    other = rows("maml", [0.1], outer="optimiser=sgd", started="2027")
    both = table(rows("maml", [0.5]), other, rows("fomaml", [0.5]))
    assert test_results(both, "accuracy")["seeds"].to_list() == [1, 1, 1]
    assert [len(part) for part in settings(both)] == [2, 1]
    (only,) = records(differences(both, "accuracy"))
    assert (only.estimator, only.value) == ("fomaml", 0.0)


def test_differences_are_paired_and_clustered_by_seed() -> None:
    both = table(rows("maml", *MAML, [0.9]), rows("binom(order=2)", *BINOM))
    (found,) = records(differences(both, "accuracy"))
    gaps = 100 * (np.array(BINOM) - np.array(MAML))
    assert found.value == pytest.approx(gaps.mean(), abs=1e-9)
    assert (found.low, found.high) == student(gaps.mean(axis=1))
    assert (found.seeds, found.tasks, found.over) == (2, 3, "seeds")
    # Those of one seed are over its common tasks.
    both = table(rows("maml", [0.5, 0.7, 0.6, 0.0]), rows("fomaml", [0.4, 0.7, 0.4]))
    (found,) = records(differences(both, "accuracy"))
    half = 1.96 * stats.sem([-10.0, 0.0, -20.0])
    assert (found.value, found.tasks, found.over) == (pytest.approx(-10.0), 3, "tasks")
    assert found.low == pytest.approx(-10.0 - half)


THREE = ([0.5], [0.6], [0.7])
NEAR_IT, LESS = ([0.49], [0.6], [0.698]), ([0.4], [0.51], [0.59])
HALF, LOSS, HIGH = ([0.5, 0.5],), ([0.46, 0.461],), ([2.5, 3.5],)


def test_verdicts_on_differences() -> None:
    for metric, maml, other, numbers, verdict in (
        ("accuracy", MAML, MAML, (0, 0, 0), "not shown"),
        ("accuracy", THREE, NEAR_IT, (-0.4, -1.7, 0.9), "not shown"),
        ("accuracy", THREE, LESS, (-10.0, -12.5, -7.5), "worse"),
        ("outer_loss", HALF, LOSS, (-0.0395, -0.0405, -0.0385), "better"),
        ("novel", HALF, HIGH, (2.5, 1.52, 3.48), "different"),
        ("accuracy", ([0.5],), ([0.6],), (10, NAN, NAN), "one pair"),
        ("outer_loss", HALF, ([NAN],), (NAN, NAN, NAN), "not finite"),
        ("accuracy", (), MAML, (NAN, NAN, NAN), "no pair"),
    ):
        both = table(rows("maml", *maml, metric=metric), rows("fomaml", *other, metric=metric))
        (found,) = records(differences(both, metric))
        assert found.verdict == verdict, (metric, maml, other)
        ends, error = [found.value, found.low, found.high], 0.05 if metric == "accuracy" else 2e-5
        assert ends == pytest.approx(numbers, abs=error, nan_ok=True)


def simulated() -> pd.DataFrame:
    """Trainings of 300 settings: with effects of seeds, of tasks, and of both together."""
    random, parts = np.random.default_rng(0), []
    for number in range(300):
        task = f"task {number}"
        hard = random.normal(0, 0.1, (5, 40))  # tasks, the same for all estimators
        for name, gap, seeds in (("maml", 0.0, 5), ("fomaml", -0.02, 5), ("reptile", -0.1, 1)):
            trained = random.normal(0, 0.03, (seeds, 1))
            seen = 0.6 + gap + hard[:seeds] + trained * (seeds > 1)
            parts.append(rows(name, *(seen + random.normal(0, 0.05, seen.shape)), task=task))
    return table(*parts)


def covered(found: pd.DataFrame, estimator: str, truth: float) -> float:
    found = found[found["estimator"] == estimator]
    assert len(found) == 300
    return float((found["low"].le(truth) & found["high"].ge(truth)).mean())


def test_intervals_cover_and_those_over_tasks_alone_would_not() -> None:
    trainings = simulated()
    near = 3 * (0.95 * 0.05 / 300) ** 0.5  # standard errors of a share of .95 of 300
    results = test_results(trainings, "accuracy")
    for estimator, truth in (("maml", 60), ("fomaml", 58), ("reptile", 50)):
        assert covered(results, estimator, truth) == pytest.approx(0.95, abs=near), estimator
    paired = differences(trainings, "accuracy")
    assert covered(paired, "fomaml", -2.0) == pytest.approx(0.95, abs=near)
    one = trainings[(trainings["seed"] == 0) & (trainings["estimator"] != "reptile")]
    assert covered(differences(one, "accuracy"), "fomaml", -2.0) < 0.7


def drawn(chart: Any) -> Any:
    """Rows of a chart that keeps to the schema, which `to_dict` sees to; the largest table."""
    return max(chart.to_dict()["datasets"].values(), key=len)


def along() -> pd.DataFrame:
    names = ("maml", "fomaml", "binom(order=1)", "binom(order=2)")
    parts = [rows(name, *MAML, step=step) for name in names for step in (0, 50, 100)]
    diverged = rows("reptile", [NAN, NAN], step=100)
    return table(*parts, diverged)


def test_learning_curves() -> None:
    found = curves(along(), "accuracy", "test")
    chart = learning_curves(found)
    spec = chart.to_dict()
    assert len(drawn(chart)) == 4 * 3
    assert {row["value_low"] for row in drawn(chart)} == {found["low"][0]}
    assert spec["width"] == "container"
    assert spec["title"]["text"] == "Test accuracy along meta-training"
    assert spec["title"]["subtitle"][-2:] == [
        "bands: 95 % intervals over 2 seeds",
        "without a finite number: reptile",
    ]
    band, line, _ = (layer["encoding"] for layer in spec["layer"])
    assert (band["y"]["field"], band["y2"]["field"]) == ("value_low", "value_high")
    assert (line["x"]["title"], line["y"]["title"]) == ("meta-training (steps)", "accuracy (%)")
    scales = [line[channel]["scale"] for channel in ("color", "strokeDash")]
    looks = [*zip(*(map(str, scale["range"]) for scale in scales), strict=True)]
    assert len(set(looks)) == 4
    of_binom = [name.startswith("binom") for name in scales[0]["domain"]]
    colours = {look[0] for look, its in zip(looks, of_binom, strict=True) if its}
    assert colours == {PALETTE["binom"][0]}


def test_figures_of_the_test() -> None:
    chart = test_accuracy(test_results(along(), "accuracy"))
    names = ("maml", "fomaml", "binom(order=1)", "binom(order=2)")
    values = {row["estimator"]: row["value"] for row in drawn(chart)}
    assert values == dict.fromkeys(names, pytest.approx(55.0))
    assert chart.to_dict()["layer"][-1]["encoding"]["x"]["title"] == "accuracy (%)"
    chart = paired_differences(differences(along(), "accuracy"))
    assert {(row["value"], row["verdict"]) for row in drawn(chart)} == {(0.0, "not shown")}
    spec = chart.to_dict()
    assert spec["layer"][0]["mark"]["type"] == "rule"
    assert spec["layer"][-1]["encoding"]["x"]["title"] == "accuracy less that of maml (points)"


def test_nothing_to_plot_is_said() -> None:
    none = table(rows("fomaml", [NAN]))
    for few in (none, none.head(0)):
        along_it = learning_curves(curves(few, "accuracy", "test"))
        at_its_end = test_accuracy(test_results(few, "accuracy"))
        for chart in (along_it, at_its_end, paired_differences(differences(few, "accuracy"))):
            assert drawn(chart) == [{"text": "No training here has these numbers."}]
            assert chart.to_dict()["width"] == "container"
