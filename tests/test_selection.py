"""Selecting cells of a plan by conditions."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from estimators import OptionError
from harness.cell import AXES, Cell
from harness.matrix.plan import Planned, expand, preset
from harness.matrix.selection import select

QUICK = expand(preset("quick"))
MANY = replace(preset("quick"), depths=(20,), orders="all")


def test_each_value_of_each_axis_selects_the_cells_that_have_it() -> None:
    assert select(QUICK, []) == QUICK
    for axis, definition in AXES.items():
        values = {getattr(plan.cell, definition.name) for plan in QUICK}
        for value in values:
            expected = [plan for plan in QUICK if getattr(plan.cell, definition.name) == value]
            assert select(QUICK, [f"{axis}={value}"]) == expected, (axis, value)
        assert select(QUICK, [f"{axis}={'|'.join(map(str, values))}"]) == QUICK
        assert select(QUICK, [f"{axis}=*"]) == QUICK


def test_all_parts_of_a_condition_must_hold_and_one_of_several_conditions() -> None:
    estimators, depths = ("binom*", "maml", "*(order=[12])"), (1, 5, 10)
    for (estimator, depth), other in product(product(estimators, depths), depths):
        conditions = [f"estimator={estimator},depth={depth}", f"task=glyphs*,depth={other}"]
        first, second = (select(QUICK, [condition]) for condition in conditions)
        assert select(QUICK, conditions) == [p for p in QUICK if p in first or p in second]
        assert first == [
            plan
            for plan in select(QUICK, [f"estimator={estimator}"])
            if plan in select(QUICK, [f"depth={depth}"])
        ]


HOLDS: list[tuple[str, Callable[[Cell], bool]]] = [
    ("estimator=binom*", lambda c: c.estimator.startswith("binom(")),
    ("estimator=binom(order=[!4])", lambda c: c.estimator in ("binom(order=1)", "binom(order=2)")),
    ("estimator=?aml", lambda c: c.estimator == "maml"),
    ("estimator=binom( order = 2 )", lambda c: c.estimator == "binom(order=2)"),
    ("estimator=imaml(lam=100, cg_steps=5)|reptile", lambda c: c.estimator in ("imaml", "reptile")),
    ("task=glyphs(shots=1, ways=5)", lambda c: c.task == "glyphs:5way-1shot"),
    ("model=mlp-40-40(init='torch')", lambda c: c.model == "mlp-40-40(init='torch')"),
    ('model=mlp-40-40(init="torch")', lambda c: c.model == "mlp-40-40(init='torch')"),
    ("model=mlp-40-40", lambda c: c.model == "mlp-40-40"),
    ("model=*torch*,depth=10", lambda c: "torch" in c.model and c.depth == 10),
    ("depth=1|10", lambda c: c.depth in (1, 10)),
    ("depth>=5", lambda c: c.depth >= 5),
    ("depth > 1, depth<10", lambda c: c.depth == 5),
    ("depth<=5,estimator=maml", lambda c: c.depth <= 5 and c.estimator == "maml"),
    ("step_size=1e-2,depth=5.0", lambda c: c.depth == 5),
    ("step_size<0.5", lambda c: True),
]


def test_patterns_match() -> None:
    for condition, holds in HOLDS:
        expected = [plan for plan in QUICK if holds(plan.cell)]
        assert select(QUICK, [condition]) == expected, condition
    (skipped,) = select(QUICK, ["depth=1,estimator=binom(order=4),task=glyphs*"])
    assert "order=4" in skipped.skip


def test_commas_and_bars_in_parentheses_and_quotes_belong_to_the_pattern() -> None:
    names = ["hybrid(order=1, window=4)", "hybrid(order=2, window=5)", "mixed(weights=(1, 2))"]
    made: dict[str, Any] = {"task": "sinusoid", "depth": 5}
    plan = [Planned(Cell.of(estimator=name, model="mlp-40-40", **made)) for name in names]
    plan.append(Planned(replace(plan[0].cell, estimator="odd(text='a,b|c(')")))
    for condition, expected in {
        "estimator=hybrid(window=4, order=1),depth=5": [0],
        "estimator=hybrid(order=2, window=5)|mixed(weights=(1,2))": [1, 2],
        "estimator=hybrid(order=?, window=*)": [0, 1],
        "estimator=odd(text='a,b|c('),depth=5": [3],
    }.items():
        assert select(plan, [condition]) == [plan[index] for index in expected]


def test_wrong_conditions_are_refused() -> None:
    for condition, message in (
        ("estimators=maml", "did you mean estimator?"),
        ("=maml", "there is estimator, task,"),
        *((text, "axis=pattern") for text in ("depth", "", "depth=5,")),
        ("depth=1|", "--only depth=1|: "),
        ("estimator=binom(order=2", "a parenthesis or a quote"),
        ("estimator=binom)order=2(", "a parenthesis or a quote"),
        ("model=mlp-40-40(init='torch)", "a parenthesis or a quote"),
        ("depth>=five", "--only depth>=five: 'five'"),
        ("depth>=1|5", "'1|5'"),
        ("estimator>=5", "write estimator=..."),
        ("depth=7", "--only depth=7 matches nothing; depth is 1, 5, 10"),
        ("depth=1|7", "--only depth=7 matches nothing"),
        ("depth>10", "--only depth>10 matches nothing"),
        ("depth=5,model=conv5*", "--only model=conv5* matches nothing; model is conv4-32, mlp-40-"),
        ("estimator=Binom*", "--only estimator=Binom* matches nothing; estimator is adjoint, bino"),
        ("estimator=binom(order=3)", "--only estimator=binom(order=3) matches nothing"),
        ("estimator=binom(ordr=2)", "--only estimator=binom(ordr=2) matches nothing"),
        ("task=glyphs*,model=mlp*", "task=glyphs* and model=mlp*"),
    ):
        for conditions in ([condition], ["depth=5", condition]):
            with pytest.raises(OptionError) as caught:
                select(QUICK, conditions)
            assert message in str(caught.value), condition
            assert "\n" not in str(caught.value), condition
    # Of many values some are shown.
    with pytest.raises(OptionError, match=r"estimator is adjoint, .* and \d+ more$"):
        select(expand(MANY), ["estimator=nothing"])
