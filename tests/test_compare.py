"""Two commits side by side: what differs, and what only one of them has."""

import math
from typing import Any

import pandas as pd
import pytest

from estimators.base.errors import OptionError, UserError
from harness.history.compare import COLUMNS, compare
from tests.support.series import commit, series


def pair(metric: str, base: Any, head: Any, **more: Any) -> pd.DataFrame:
    lines = {name: [base.get(name), head.get(name)] for name in base | head}
    return series(metric, lines, **more)


def compared(table: pd.DataFrame) -> pd.DataFrame:
    result = compare(table, commit(0), commit(1))
    assert tuple(result.columns) == COLUMNS
    return result


def by_estimator(table: pd.DataFrame) -> pd.DataFrame:
    return compared(table).set_index("estimator")


def test_two_commits_side_by_side() -> None:
    base = {"maml": 10.0, "fomaml": 4.0, "reptile": 3.0, "imaml": 8.0}
    table = compared(pair("flops", base, base | {"maml": 11.0, "imaml": 2.0}))
    assert table["estimator"].to_list()[:2] == ["imaml", "maml"]  # what differs most on top
    assert table["differs"].to_list() == [True, True, False, False]
    assert table["verdict"].to_list() == ["better", "worse", "", ""]
    assert table["ratio"].to_list() == [0.25, 1.1, 1.0, 1.0]
    assert table["value_base"].to_list()[:2] == [8.0, 10.0]
    assert table["value_head"].to_list()[:2] == [2.0, 11.0]
    assert set(table["where"]) == {"both"}


def test_cells_of_one_commit_and_changed_outcomes() -> None:
    base = {"maml": 10.0, "fomaml": 4.0, "reptile": 3.0, "imaml": "failed", "anil": "failed"}
    head = {"maml": "timeout", "fomaml": 9.0, "imaml": 5.0, "anil": "failed", "hybrid": 1.0}
    table = by_estimator(pair("flops", base, head))
    expected = {
        "imaml": ("both", "better", "failed", "ok"),
        "maml": ("both", "worse", "ok", "timeout"),
        "fomaml": ("both", "worse", "ok", "ok"),
        "anil": ("both", "", "failed", "failed"),
        "hybrid": ("head", "", "", "ok"),
        "reptile": ("base", "", "ok", ""),
    }
    columns = ["where", "verdict", "outcome_base", "outcome_head"]
    assert dict(zip(table.index, table[columns].itertuples(index=False), strict=True)) == expected
    assert [*table.index[:4]] == [*expected][:4], "what differs most on top"
    assert table.index[table["differs"]].to_list() == ["imaml", "maml", "fomaml"]
    tables = [pair("flops", {"maml": 1.0}, {"maml": 1.0}), pair("launches", {}, {"maml": 7.0})]
    new = compared(pd.concat(tables)).set_index("metric")
    assert new["where"].to_dict() == {"flops": "both", "launches": "head"}
    assert not new["differs"].any()


def test_noisy_metrics_are_compared_by_their_samples() -> None:
    base = {"maml": 1.0, "fomaml": 1.0, "reptile": 1.0}
    head = {"maml": 1.5, "fomaml": 1.01, "reptile": 1.0}  # reptile's are ties
    table = by_estimator(pair("time", base, head, samples=True))
    assert table["differs"].to_dict() == {"maml": True, "fomaml": False, "reptile": False}
    assert table.index[0] == "maml"
    assert table["p"]["maml"] == pytest.approx(2 / math.comb(14, 7))
    assert (table["p"].drop("maml") > 0.5).all()


def test_without_samples_intervals_must_not_overlap() -> None:
    base, head = {"maml": 1.0, "fomaml": 1.0}, {"maml": 1.06, "fomaml": 1.04}
    none = pair("time", base, head)
    few = pair("time", base, head, samples=True)
    few["samples"] = [one[:3] for one in few["samples"]]
    for table in (none, few):
        result = by_estimator(table)
        assert result["differs"].to_dict() == {"maml": True, "fomaml": False}
        assert result["p"].isna().all()
    single = compared(pair("time", base, {"maml": 9.0}).assign(low=math.nan, high=math.nan))
    assert not single["differs"].any()
    assert single["ratio"].to_list()[:1] == [9.0]


def test_a_number_that_became_nan_is_worse() -> None:
    lines = {"maml": [0.5, math.nan], "fomaml": [math.nan, 0.5]}
    for metric in ("bias", "accuracy"):
        table = by_estimator(series(metric, lines))
        assert table["verdict"].to_dict() == {"maml": "worse", "fomaml": "better"}


def test_machines_are_compared_with_themselves() -> None:
    here = pair("flops", {"maml": 1.0}, {"maml": 1.0})
    there = pair("flops", {"maml": 2.0}, {"maml": 3.0}, machine="there")
    table = compared(pd.concat([here, there]))
    assert table["machine"].to_list() == ["there", "here"]
    assert table["ratio"].to_list() == [1.5, 1.0]


def test_commits_may_be_shortened() -> None:
    table = pair("flops", {"maml": 1.0}, {"maml": 2.0})
    assert compare(table, commit(0)[:12], commit(1)[:7])["differs"].item()
    for changed, base in ((table, "deadbeef"), (table, ""), (table.assign(changes="1"), commit(0))):
        with pytest.raises(UserError, match=f"no results of commit '{base}'"):
            compare(changed, base, commit(1))
    with pytest.raises(OptionError, match="2 commits with results begin with 'aa'"):
        compare(table.assign(commit=["aa1", "aa2"]), "aa", "aa1")
