"""What stands out: sentences from tables whose answer is known."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.store.table import load
from reports.tables.cells import cells
from reports.tables.findings import findings
from tests.support.large_store import write_large_store

NAN = math.nan


def cell(
    estimator: str,
    bias: float = NAN,
    *,
    order: int | None = None,
    spread: float = 0.0,
    time: float = 10.0,
    noise: float = 0.5,
    memory: float = 1.0,
    **more: Any,
) -> dict[str, Any]:
    return {
        **{"version": "new@here", "task": "sinusoid", "model": "mlp", "device": "cpu", "rest": "r"},
        **{"trained": 0, "machine_label": "here", "depth": 5, "outcome": "ok", "reason": ""},
        **{"estimator": estimator, "family": estimator.partition("(")[0], "order": order},
        **{"bias": bias, "bias_low": bias - spread, "bias_high": bias + spread, "own_bias": NAN},
        **{"time_ratio": time, "time_ratio_low": time - noise, "time_ratio_high": time + noise},
        **{"peak_memory": memory, "hvps": 0.0, "bound": NAN, "bound_low": NAN, "bound_high": NAN},
        **more,
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows) or [cell("maml")])
    return frame.assign(order=frame["order"].astype("Int64")).head(len(rows))


TRUNCATED = cell("truncated(order=4)", 0.0198, order=4, spread=1e-3)
BINOM = cell("binom(order=4)", 3.5e-9, order=4, spread=1e-10)
GAP = (
    "On sinusoid with mlp at K=5, binom(order=4) errs 5.7 million times less than "
    "truncated(order=4): the relative error is 3.5e-9 against 0.02."
)


def test_the_largest_gap_between_estimators_of_one_order() -> None:
    others = [cell("truncated(order=2)", 0.3, order=2), cell("binom(order=2)", 0.1, order=2)]
    assert findings(table(*others, TRUNCATED, BINOM)) == [GAP]


@pytest.mark.parametrize(
    "change",
    [
        {"order": 3},
        {"order": None},
        {"bias": 1e-17, "bias_low": 1e-17, "bias_high": 1e-17},
        {"bias": 0.0, "bias_low": 0.0, "bias_high": 0.0},
        {"bias_high": 0.5},
        {"bias_low": NAN, "bias_high": NAN},
        {"bias": NAN, "bias_low": NAN, "bias_high": NAN},
        {"outcome": "timeout"},
        {"task": "glyphs"},
        {"trained": 100},
        {"rest": "other"},
        {"version": "new@there"},
        {"depth": 10},
        {"version": "old@here"},
    ],
    ids=str,
)
def test_no_gap_is_told_where_there_is_none(change: dict[str, Any]) -> None:
    assert not [one for one in findings(table(TRUNCATED, BINOM | change)) if "less than" in one]


def test_a_saving_is_told_with_what_it_costs() -> None:
    maml = cell("maml", 1e-17, time=20.0, memory=60.0)
    adjoint = cell("adjoint", 0.0, time=26.0, memory=30.0)
    text = (
        "On sinusoid with mlp at K=5, adjoint is as exact as maml, with 0.5 times its memory "
        "(30 MiB against 60 MiB) and "
    )
    assert findings(table(maml, adjoint)) == [f"{text}1.3 times its time."]
    noisy = cell("adjoint", 0.0, time=20.5, memory=30.0)
    untold = text.removesuffix(" and ") + "; their times cannot be told apart."
    assert findings(table(maml, noisy)) == [untold]
    # 1 % of bias is no more felt than none.
    near = cell("truncated(order=4)", 0.008, spread=0.001, time=5.0, memory=50.0)
    assert findings(table(maml, adjoint, near)) == [
        "On sinusoid with mlp at K=5, truncated(order=4) is as good as exact (relative error "
        "0.008) beside maml, with 0.83 times its memory (50 MiB against 60 MiB) and 0.25 times "
        "its time."
    ]
    far = near | {"bias_high": 0.02}
    assert findings(table(maml, far)) == []
    assert findings(table(maml, maml | {"estimator": "adjoint"})) == []
    assert findings(table(maml, cell("adjoint", 0.0, time=NAN, memory=30.0))) == []
    assert findings(table(maml, cell("adjoint", 0.0, memory=0.0))) == []


def test_estimators_worse_than_first_order_are_told() -> None:
    first = cell("fomaml", 0.6, spread=0.05)
    bad = cell("binom(order=2)", 1.4, order=2, spread=0.5, hvps=8.0)
    text = (
        "On sinusoid with mlp at K=5, binom(order=2) errs more than fomaml, which takes no second "
        "derivatives: the relative error is 1.4 against 0.6"
    )
    assert findings(table(first, bad)) == [f"{text}."]
    also = cell("neumann", 1.1, spread=0.1, hvps=5.0)
    assert findings(table(first, bad, also)) == [f"{text}; so does 1 other cell."]
    third = also | {"estimator": "hybrid"}
    assert findings(table(first, bad, also, third)) == [f"{text}; so do 2 other cells."]
    assert findings(table(first, bad | {"bias_low": 0.64})) == []
    assert findings(table(first, cell("reptile", 9.0))) == []
    assert findings(table(first, cell("imaml", 9.0, hvps=5.0, own_bias=1e-4))) == []
    assert findings(table(cell("fomaml", 0.0), bad)) == []


def test_an_error_beyond_the_bound_is_told() -> None:
    bound = {"bound": 0.1, "bound_low": 0.09, "bound_high": 0.11}
    broken = cell("binom(order=2)", 0.4, order=2, spread=0.1, **bound)
    assert findings(table(broken)) == [
        "On sinusoid with mlp at K=5, binom(order=2) errs more than theory allows, by 0.4 where "
        "the bound is 0.1: the curvature is larger than was found, or the estimator is at fault."
    ]
    assert findings(table(broken | {"bias_low": 0.1})) == []
    rounding = {"bias": 1e-16, "bias_low": 1e-16, **dict.fromkeys(bound, 0.0)}
    assert findings(table(broken | rounding)) == []


def test_failed_cells_are_told_last() -> None:
    failed = [
        cell("a", outcome="failed"),
        cell("b", outcome="failed"),
        cell("c", outcome="crashed"),
    ]
    skipped = cell("d", outcome="skipped")
    told = "3 of 5 cells did not end well: 2 failed and 1 crashed."
    assert findings(table(*failed, skipped, TRUNCATED, BINOM)) == [GAP, told]
    assert findings(table(*failed)) == ["3 of 3 cells did not end well: 2 failed and 1 crashed."]


def test_there_are_three_at_most() -> None:
    maml = cell("maml", 0.0, memory=60.0)
    first, bad = cell("fomaml", 0.6), cell("binom(order=2)", 1.4, hvps=8.0)
    found = findings(
        table(maml, cell("adjoint", 0.0), first, bad, TRUNCATED, BINOM, cell("x", outcome="failed"))
    )
    assert len(found) == 3
    assert [word in one for word, one in zip(("less", "exact", "more"), found, strict=True)]


def test_no_cells_have_no_findings() -> None:
    assert findings(table()) == []
    assert findings(table(cell("maml"), cell("binom(order=4)", order=4))) == []
    assert findings(table(cell("d", outcome="skipped"))) == []


def test_settings_are_told_apart() -> None:
    changes: list[dict[str, Any]] = [
        {"trained": 800},
        {"device": "cuda:0"},
        {"rest": "float64, seed 1"},
        {"version": "new@there", "machine_label": "there"},
    ]
    texts = ["after 800 meta-training steps", "cuda:0", "float64, seed 1", "machine there"]
    for change, text in zip(changes, texts, strict=True):
        found = findings(table(cell("maml", 0.0), TRUNCATED | change, BINOM | change))
        assert found[0].startswith(f"On sinusoid with mlp at K=5 ({text}), binom(order=4) errs ")


def test_only_the_newest_commit_counts() -> None:
    newer = [row | {"version": "newer@here"} for row in (TRUNCATED, cell("fomaml", 0.1))]
    assert findings(table(*newer, TRUNCATED, BINOM)) == []


def test_a_large_store_has_findings_whose_numbers_are_in_it(tmp_path: Path) -> None:
    long, _ = load(write_large_store(tmp_path, commits=6, measurements=3_000))
    rows = cells(long)
    found = findings(rows)
    assert 1 <= len(found) <= 3
    newest = rows[rows["commit"] == rows["commit"].iloc[0]]
    pair = newest[(newest["order"] == 4) & (newest["model"] == "mlp-40-40")]
    less, more = sorted(set(pair[pair["depth"] == 5]["bias"].dropna()))
    assert f"errs {more / less / 1e6:.1f} million times less than truncated(order=4)" in found[0]
    assert all(one.endswith(".") for one in found)
    assert all(a != b for a, b in pairwise(found))
