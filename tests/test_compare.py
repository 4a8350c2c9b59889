"""Two commits side by side: what differs, and what only one of them has."""

import math
from typing import Any

import pandas as pd
import pytest

from estimators.base.errors import OptionError, UserError
from harness.history.compare import COLUMNS, compare
from tests.support.series import commit, series


def sides(metric: str, base: Any, head: Any, **more: Any) -> pd.DataFrame:
    lines = {name: [base.get(name), head.get(name)] for name in base | head}
    return series(metric, lines, **more)


def compared(table: pd.DataFrame) -> pd.DataFrame:
    told = compare(table, commit(0), commit(1))
    assert tuple(told.columns) == COLUMNS
    return told


def test_two_commits_side_by_side() -> None:
    base = {"maml": 10.0, "fomaml": 4.0, "reptile": 3.0, "imaml": 8.0}
    table = compared(sides("flops", base, base | {"maml": 11.0, "imaml": 2.0}))
    assert table["estimator"].to_list()[:2] == ["imaml", "maml"]  # what differs most on top
    assert table["differs"].to_list() == [True, True, False, False]
    assert table["verdict"].to_list() == ["better", "worse", "", ""]
    assert table["ratio"].to_list() == [0.25, 1.1, 1.0, 1.0]
    assert table["value_base"].to_list()[:2] == [8.0, 10.0]
    assert table["value_head"].to_list()[:2] == [2.0, 11.0]
    assert set(table["where"]) == {"both"}


def test_cells_of_one_commit_and_changed_outcomes_are_told() -> None:
    base = {"maml": 10.0, "fomaml": 4.0, "reptile": 3.0, "imaml": "failed", "anil": "failed"}
    head = {"maml": "timeout", "fomaml": 9.0, "imaml": 5.0, "anil": "failed", "hybrid": 1.0}
    table = compared(sides("flops", base, head)).set_index("estimator")
    assert [*table.index[:3]] == ["imaml", "maml", "fomaml"]
    assert set(table.index[-2:]) == {"hybrid", "reptile"}
    assert len(table) == 6
    assert table["where"].to_dict() == dict.fromkeys(table.index[:4], "both") | {
        "reptile": "base",
        "hybrid": "head",
    }
    assert table["outcome_base"].to_dict()["maml"] == "ok"
    assert table["outcome_head"].to_dict()["maml"] == "timeout"
    assert table["verdict"].to_dict() == dict.fromkeys(table.index, "") | {
        "maml": "worse",
        "imaml": "better",
        "fomaml": "worse",
    }
    assert table.index[table["differs"]].to_list() == ["imaml", "maml", "fomaml"]
    assert table.loc["anil", "outcome_head"] == "failed"
    assert table.loc["reptile", "outcome_head"] == ""


def test_a_new_metric_of_a_cell_is_told() -> None:
    table = pd.concat(
        [
            sides("flops", {"maml": 10.0}, {"maml": 10.0}),
            sides("launches", {}, {"maml": 7.0}),
        ]
    )
    told = compared(table).set_index("metric")
    assert told["where"].to_dict() == {"flops": "both", "launches": "head"}
    assert not told["differs"].any()


def test_noisy_metrics_are_compared_by_their_samples() -> None:
    head = {"maml": 1.5, "fomaml": 1.01}
    told = compared(sides("time", {"maml": 1.0, "fomaml": 1.0}, head, samples=True))
    assert told["estimator"].to_list() == ["maml", "fomaml"]
    assert told["differs"].to_list() == [True, False]
    assert told["p"].iloc[0] == pytest.approx(2 / math.comb(14, 7))
    assert told["p"].iloc[1] > 0.5


def test_ties_elsewhere_do_not_change_a_test() -> None:
    table = sides("time", {"maml": 1.0, "fomaml": 1.0}, {"maml": 1.5, "fomaml": 1.0}, samples=True)
    told = compared(table).set_index("estimator")
    assert told.loc["maml", "p"] == pytest.approx(2 / math.comb(14, 7))
    assert not told.loc["fomaml", "differs"]


def test_without_samples_intervals_must_not_overlap() -> None:
    base = {"maml": 1.0, "fomaml": 1.0}
    told = compared(sides("time", base, {"maml": 1.06, "fomaml": 1.04})).set_index("estimator")
    assert told["differs"].to_dict() == {"maml": True, "fomaml": False}
    assert told["p"].isna().all()
    few = sides("time", base, {"maml": 1.06, "fomaml": 1.04}, samples=True)
    few["samples"] = [one[:3] for one in few["samples"]]
    told = compared(few).set_index("estimator")
    assert told["differs"].to_dict() == {"maml": True, "fomaml": False}


def test_a_single_noisy_number_cannot_be_compared() -> None:
    table = sides("resident_memory", {"maml": 1.0}, {"maml": 9.0})
    told = compared(table.assign(low=math.nan, high=math.nan))
    assert not told["differs"].item()
    assert told["ratio"].to_list() == [9.0]


def test_a_number_that_is_none_any_more_is_worse() -> None:
    lines: dict[str, list[float | str | None]] = {
        "maml": [0.5, math.nan],
        "fomaml": [math.nan, 0.5],
    }
    for metric in ("bias", "accuracy"):
        told = compared(series(metric, lines)).set_index("estimator")
        assert told["verdict"].to_dict() == {"maml": "worse", "fomaml": "better"}


def test_machines_are_compared_with_themselves() -> None:
    here = sides("flops", {"maml": 1.0}, {"maml": 1.0})
    there = sides("flops", {"maml": 2.0}, {"maml": 3.0}, machine="there")
    told = compared(pd.concat([here, there]))
    assert told["machine"].to_list() == ["there", "here"]
    assert told["ratio"].to_list() == [1.5, 1.0]


def test_commits_may_be_shortened() -> None:
    table = sides("flops", {"maml": 1.0}, {"maml": 2.0})
    assert compare(table, commit(0)[:12], commit(1)[:7])["differs"].item()
    with pytest.raises(UserError, match="no results of commit 'deadbeef'"):
        compare(table, "deadbeef", commit(1))
    with pytest.raises(UserError, match="no results of commit ''"):
        compare(table, "", commit(1))
    same = table.assign(commit=["aa1", "aa2"])
    with pytest.raises(OptionError, match="2 commits with results begin with 'aa'"):
        compare(same, "aa", "aa1")
    with pytest.raises(UserError, match="no results of commit"):
        compare(table.assign(changes="0123"), commit(0), commit(1))
