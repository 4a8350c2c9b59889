"""Which estimator comes first as the budget of memory grows."""

import pandas as pd
import pytest

from harness.matrix.metrics import METRICS
from harness.support.units import bytes_of
from reports.tables.advice import advise
from reports.tables.budgets import by_memory
from tests.support.advice_rows import FOUR


def test_each_budget_names_what_the_advice_puts_first() -> None:
    told = by_memory(FOUR)
    limits = [bytes_of(text) / METRICS["peak_memory"].scale for text in told["memory, from"]]
    assert limits == sorted(limits)
    assert len(limits) > 1
    for limit, name, why in zip(limits, told["estimator"], told["why"], strict=True):
        first = advise(FOUR, memory=limit * 1.01).iloc[0]
        assert (first["estimator"], first["why"]) == (name, why)
    beyond = advise(FOUR, memory=1e9).iloc[0]
    assert beyond["estimator"] == told["estimator"].iloc[-1]


@pytest.mark.parametrize("rows", [FOUR.iloc[:0], FOUR.assign(outcome="crashed")])
def test_without_a_known_bias_there_is_nothing_to_name(rows: pd.DataFrame) -> None:
    assert by_memory(rows).empty
