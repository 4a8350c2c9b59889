"""Where levels changed along the commits."""

import math

import numpy as np
import pandas as pd
import pytest
from asv import step_detect  # type: ignore[import-untyped]

from harness.history.changes import COLUMNS, changes
from harness.history.differences import differ
from harness.matrix.metrics import METRICS
from tests.support.series import commit, noise, series

Line = list[float | str | None]


def levels(table: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Commit, level before and after of each change, oldest first."""
    rows = changes(table).sort_values("position")
    return [(r["commit"], r["before"], r["after"]) for r in rows.to_dict("records")]


def test_asv_uses_its_compiled_extension() -> None:
    # A name alone: asv's object must not be in what a failing test keeps, since collecting it as
    # garbage frees it twice.
    assert type(step_detect.get_mu_dist([1.0], [1.0])).__name__ == "RangeMedian"


def test_repeatable_metrics_differ_beyond_a_tolerance() -> None:
    for metric, before, after, expected in (
        ("flops", 1e9, 1e9 + 1, True),
        ("peak_memory", 4096.0, 4096.0, False),
        ("bias", 0.3, 0.3 * (1 + 0.9e-6), False),
        ("bias", 0.3, 0.3 * (1 + 1.1e-6), True),
        ("bias", 1e-17, 4e-13, False),
        ("bias", 1e-17, 4e-12, True),
        ("bias", 0.0, 4e-13, False),
        ("bias", 1.0, 1.0 + 1e-9, False),
        ("cosine_distance", 1e-20, 2e-20, True),  # of errors of 1.4e-10 and 2e-10
        ("cosine_distance", 1e-30, 1e-29, False),
        ("bias", math.inf, math.inf, False),
        ("bias", 0.5, math.inf, True),
        ("bias", 0.5, math.nan, True),
        ("bias", math.nan, math.nan, False),
    ):
        for one, other in ((before, after), (after, before)):
            (result,) = differ(pd.Series([metric]), np.array([one]), np.array([other]))
            assert result == expected, (metric, one, other)


def test_a_small_step_of_a_count_is_a_change() -> None:
    (row,) = changes(series("flops", {"maml": [1e9] * 3 + [1e9 + 1] * 4})).to_dict("records")
    assert tuple(row) == COLUMNS
    assert (row["commit"], row["previous"], row["unmeasured"]) == (commit(3), commit(2), 0)
    assert (row["before"], row["after"], row["verdict"]) == (1e9, 1e9 + 1, "worse")
    assert row["ratio"] == pytest.approx(1 + 1e-9, rel=1e-12)
    assert (row["subject"], row["position"], row["lasting"]) == ("subject 3", 3, True)
    assert math.isnan(row["p"])
    assert math.isnan(row["noise"])


def test_only_the_last_change_of_a_level_lasts() -> None:
    assert levels(series("hvps", {"maml": [5, 5, 6]})) == [(commit(2), 5, 6)]
    lines: list[tuple[list[float], list[list[object]]]] = [
        ([5, 5, 6, 5], [["better", True], ["worse", False]]),  # the newest first
        ([5, 4, 4, 5, 5], [["worse", True], ["better", False]]),
    ]
    for line, expected in lines:
        table = changes(series("hvps", {"maml": line}))
        assert table[["verdict", "lasting"]].to_numpy().tolist() == expected


def test_direction() -> None:
    words = {"lower": ("worse", "better"), "higher": ("better", "worse"), "neither": ("other",) * 2}
    for name, metric in METRICS.items():
        if not metric.noisy:
            tables = [changes(series(name, {"maml": line})) for line in ([1.5, 2.5], [2.5, 1.5])]
            assert tuple(one["verdict"].item() for one in tables) == words[metric.better], name


def test_unmeasured_commits_are_counted() -> None:
    line: Line = [5.0, 5.0, None, "failed", 7.0, None]
    others: Line = [1.0] * 6
    (row,) = changes(series("hvps", {"maml": line, "fomaml": others})).to_dict("records")
    assert (row["previous"], row["commit"], row["unmeasured"]) == (commit(1), commit(4), 2)
    table = series("hvps", {"maml": [5.0, 7.0]})
    for newer, expected in ((14, 3), (None, 0)):  # by git's numbers, where it knows both
        table["number"] = pd.array([10, newer], dtype="Int64")
        assert changes(table)["unmeasured"].item() == expected


def test_series_without_a_change() -> None:
    lines: list[Line] = [[], [5.0], [5.0, math.nan], ["failed", 5.0], ["failed"] * 2, [5.0] * 9]
    for line in lines:
        for metric in ("hvps", "time"):
            table = changes(series(metric, {"maml": line}))
            assert table.empty
            assert tuple(table.columns) == COLUMNS
    table = series("hvps", {"maml": [5.0, 9.0, 5.0]})
    assert changes(table.assign(changes=["", "0123", ""])).empty, "uncommitted changes"


def test_series_do_not_run_into_one_another() -> None:
    table = pd.concat(
        [
            series("hvps", {"maml": [5.0, 5.0], "fomaml": [0.0, 0.0]}),
            series("hvps", {"maml": [6.0, 6.0]}, machine="there"),
            series("hvps", {"maml": [7.0, 7.0]}, fingerprint="beef"),
            series("flops", {"maml": [8.0, 9.0]}),
        ]
    )
    for mixed in (table, table.sample(frac=1, random_state=0)):
        assert levels(mixed) == [(commit(1), 8.0, 9.0)]


def stepped(seed: int, count: int, factor: float, spread: float = 0.05) -> list[float]:
    half = count // 2
    values = noise(seed, count, spread)
    return values[:half] + [factor * value for value in values[half:]]


def test_a_noisy_step_is_located() -> None:
    for factor in (1.2, 1 / 1.2):
        for seed in range(10):
            (row,) = changes(series("time", {"maml": stepped(seed, 200, factor)})).to_dict(
                "records"
            )
            assert abs(row["position"] - 100) <= 1
            assert row["ratio"] == pytest.approx(factor, rel=0.05)
            assert row["verdict"] == ("worse" if factor > 1 else "better")
            assert row["p"] < 1e-9
            assert row["noise"] > 2
            assert row["lasting"]


def test_how_many_commits_a_noisy_step_takes() -> None:
    def hits(runs: int, count: int, factor: float, spread: float) -> int:
        """Return in how many series the step is the only change."""
        lines = [stepped(seed, count, factor, spread) for seed in range(runs)]
        return sum(len(levels(series("time", {"maml": line}))) == 1 for line in lines)

    assert hits(20, 12, 1.5, 0.05) >= 18
    assert hits(10, 200, 1.2, 0.1) >= 7  # a step within the noise needs many
    assert hits(20, 12, 1.2, 0.1) <= 3


def test_a_small_step_or_one_slow_run_is_no_change() -> None:
    for step, count in ((1.03, 0), (1.07, 1)):
        line = [1.0, 1.001] * 30 + [step, step + 0.001] * 30
        assert len(changes(series("time", {"maml": line}))) == count
    for place in (0, 10, 39):
        line = noise(1, 40)
        line[place] *= 3
        assert changes(series("time", {"maml": line})).empty
    unknown = "headline.Headline.time_sinusoid"  # assumed to be noisy
    assert changes(series(unknown, {"maml": [5.0, 5.1] * 10})).empty


def test_false_alarms_are_few() -> None:
    def alarms(spread: float, drift: float) -> int:
        """Return the number of changes in 740 series of runs of the same code."""
        total = 0
        for count in (2, 3, 4, 6, 8, 12, 20, 50, 200):
            seeds = range(100 if count < 50 else 20)
            lines = {
                f"estimator {seed}": noise(1000 + seed, count, spread, drift) for seed in seeds
            }
            total += len(changes(series("time", lines)))
        return total

    assert sum(alarms(spread, 0.0) for spread in (0.05, 0.1, 0.25)) <= 2
    # Where one run is like the one before, a stretch of slow ones looks like a change.
    assert alarms(0.1, 0.7) <= 15


def test_gaps_and_infinities_do_not_shift_a_noisy_step() -> None:
    line: Line = [*stepped(3, 60, 1.5)]
    for place in (4, 29, 30, 31, 45):
        line[place] = None
    line[10] = line[50] = math.inf
    (row,) = changes(series("time", {"maml": line})).to_dict("records")
    assert (row["previous"], row["commit"], row["unmeasured"]) == (commit(28), commit(32), 3)


def test_wide_intervals_count_for_little() -> None:
    line = noise(2, 12, 0.01) + [2 * value for value in noise(3, 4, 0.01)] + noise(4, 12, 0.01)
    table = series("time", {"maml": line})
    assert changes(table)["commit"].to_list() == [commit(16), commit(12)]
    table.loc[table["position"].between(12, 15), "high"] = 200.0
    assert changes(table).empty
    table = series("time", {"maml": stepped(3, 200, 1.2)})
    assert len(changes(table)) == 1
    assert changes(table.assign(low=0.7 * table["value"], high=1.3 * table["value"])).empty


def test_a_series_without_noise_still_has_steps() -> None:
    (row,) = changes(series("resident_memory", {"maml": [8.0] * 5 + [16.0] * 5})).to_dict("records")
    assert (row["commit"], row["ratio"]) == (commit(5), 2.0)
    assert row["noise"] > 10
