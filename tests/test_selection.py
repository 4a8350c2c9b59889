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


def test_no_condition_selects_everything() -> None:
    assert select(QUICK, []) == QUICK


@pytest.mark.parametrize("axis", AXES)
def test_each_value_of_each_axis_selects_the_cells_that_have_it(axis: str) -> None:
    values = {getattr(plan.cell, AXES[axis].name) for plan in QUICK}
    parts = [select(QUICK, [f"{axis}={value}"]) for value in values]
    for value, chosen in zip(values, parts, strict=True):
        assert chosen == [plan for plan in QUICK if getattr(plan.cell, AXES[axis].name) == value]
    assert sum(map(len, parts)) == len(QUICK)
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


@pytest.mark.parametrize(("condition", "holds"), HOLDS)
def test_what_patterns_match(condition: str, holds: Callable[[Cell], bool]) -> None:
    assert select(QUICK, [condition]) == [plan for plan in QUICK if holds(plan.cell)]


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


def test_skipped_cells_are_selected_with_their_reason() -> None:
    (chosen,) = select(QUICK, ["depth=1,estimator=binom(order=4),task=glyphs*"])
    assert chosen.skip == "binom: order=4 is outside 0..1 (the depth is 1)"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("estimators=maml", "unknown axis 'estimators'; did you mean estimator?"),
        ("=maml", "unknown axis ''; there is estimator, task,"),
        ("depth", "--only 'depth': write axis=pattern, as estimator=binom*,depth=5"),
        ("", "write axis=pattern"),
        ("depth=5,", "write axis=pattern"),
        ("depth=1|", "--only depth=1|: a pattern is missing, as in depth=*"),
        ("estimator=binom(order=2", "a parenthesis or a quote is open or closed too often"),
        ("estimator=binom)order=2(", "a parenthesis or a quote is open or closed too often"),
        ("model=mlp-40-40(init='torch)", "a parenthesis or a quote is open or closed too often"),
        ("depth>=five", "--only depth>=five: 'five' is no number"),
        ("depth>=1|5", "'1|5' is no number"),
        ("estimator>=5", "--only estimator>=5: estimator is no number; write estimator=..."),
        ("depth=7", "--only depth=7 matches nothing; depth is 1, 5, 10"),
        ("depth=1|7", "--only depth=7 matches nothing"),
        ("depth>10", "--only depth>10 matches nothing"),
        ("depth=5,model=conv5*", "--only model=conv5* matches nothing; model is conv4-32, mlp-40-"),
        ("estimator=Binom*", "--only estimator=Binom* matches nothing; estimator is adjoint, bino"),
        ("estimator=binom(order=3)", "--only estimator=binom(order=3) matches nothing"),
        ("estimator=binom(ordr=2)", "--only estimator=binom(ordr=2) matches nothing"),
        (
            "task=glyphs*,model=mlp*",
            "each of task=glyphs* and model=mlp* holds for some cells, but",
        ),
    ],
)
def test_slips_are_told(condition: str, message: str) -> None:
    for conditions in ([condition], ["depth=5", condition]):
        with pytest.raises(OptionError) as caught:
            select(QUICK, conditions)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_of_many_values_some_are_shown() -> None:
    with pytest.raises(OptionError, match=r"estimator is adjoint, .* and \d+ more$"):
        select(expand(MANY), ["estimator=nothing"])
