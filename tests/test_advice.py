"""What to use: the ranking, its reasons, and the sentence on top."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.store.table import load
from reports.tables.advice import advise, verdict
from reports.tables.cells import cells
from reports.tables.reasons import number_text
from reports.tables.samples import samples
from tests.support.advice_rows import FOUR, NAN, cell, reasons, table
from tests.support.stores import write_store


def test_without_budgets_the_quickest_exact_one_is_first() -> None:
    advice = advise(FOUR)
    assert list(advice["estimator"]) == ["maml", "adjoint", "binom(order=4)", "fomaml"]
    assert list(advice["rank"]) == [1, 2, 3, 4]
    assert advice["fits"].all()
    assert list(advice["tied_with"]) == ["adjoint", "", "", ""]
    assert list(advice["dominated_by"]) == ["", "maml", "", ""]
    assert reasons(advice) == {
        "maml": "As exact as adjoint, and is quicker.",
        "adjoint": "Worse than maml in time and memory, and no better in bias.",
        "binom(order=4)": "Bias 3.5e-9 where maml is exact, at 1.9 times the time and 0.65 times "
        "the memory.",
        "fomaml": "Bias 0.1 where maml is exact, at 0.53 times the time and 0.32 times the memory.",
    }
    assert verdict(advice) == (
        "maml is exact, and the quickest of 2 that are: 11 times an inner gradient, 78.8 KiB."
    )


def test_within_a_memory_budget_the_least_bias_is_first() -> None:
    advice = advise(FOUR, memory=0.06)
    assert list(advice["estimator"]) == ["binom(order=4)", "fomaml", "maml", "adjoint"]
    assert list(advice["fits"]) == [True, True, False, False]
    assert advice["beyond"].to_list()[2:] == pytest.approx([0.077 / 0.06, 0.08 / 0.06])
    assert reasons(advice) == {
        "binom(order=4)": "The least bias of 2.",
        "fomaml": "29 million times the bias of binom(order=4), at 0.28 times the time and 0.5 "
        "times the memory.",
        "maml": "Needs 1.3 times the memory.",
        "adjoint": "Needs 1.3 times the memory.",
    }
    assert verdict(advice) == (
        "Within 61.4 KiB, binom(order=4) has the least bias, 3.5e-9: 22 times an inner gradient, "
        "51.2 KiB; maml is exact, but needs 1.3 times the memory."
    )


def test_all_budgets_bind_at_once() -> None:
    advice = advise(FOUR, memory=0.079, bias=0.01, time=20)
    assert list(advice["estimator"][advice["fits"]]) == ["maml"]
    assert reasons(advice)["maml"] == "The only one that fits."
    assert reasons(advice)["fomaml"] == "Has 10 times the bias allowed."
    assert reasons(advice)["adjoint"] == "Needs 1.3 % more memory."
    assert reasons(advice)["binom(order=4)"] == "Needs 8 % more time."
    assert verdict(advice).startswith(
        "Within 80.9 KiB, a bias of 0.01 and the time of 20 inner gradients, maml is exact: "
    )


def test_nothing_that_fits_tells_what_comes_closest() -> None:
    advice = advise(FOUR, memory=0.02, bias=0.05)
    assert not advice["fits"].any()
    # fomaml exceeds two budgets: 1.25 times the one, twice the other.
    assert advice.loc[0, "estimator"] == "binom(order=4)"
    assert list(advice["rank"]) == [1, 2, 3, 4]
    assert verdict(advice) == (
        "Nothing fits within 20.5 KiB and a bias of 0.05; binom(order=4) comes closest and needs "
        "2.5 times the memory: bias 3.5e-9, 22 times an inner gradient, 51.2 KiB."
    )
    assert reasons(advice)["fomaml"] == (
        "Needs 1.2 times the memory and has 2 times the bias allowed."
    )


def test_no_bias_allowed_asks_for_exact_ones() -> None:
    advice = advise(FOUR, bias=0)
    assert list(advice["estimator"][advice["fits"]]) == ["maml", "adjoint"]
    assert reasons(advice)["fomaml"] == "Is not exact."
    assert verdict(advice).startswith("Within exactness, maml is exact")


@pytest.mark.parametrize("budget", ["memory", "time"])
def test_a_budget_of_nothing_is_exceeded_by_all(budget: str) -> None:
    limits: dict[str, Any] = {budget: 0}
    advice = advise(FOUR, **limits)
    assert not advice["fits"].any()
    assert set(advice["why"]) == {f"Needs more {budget} than none."}
    assert verdict(advice).startswith("Nothing fits within ")


@pytest.mark.parametrize("wrong", [-1.0, NAN])
@pytest.mark.parametrize("budget", ["memory", "bias", "time"])
def test_a_budget_that_is_none_is_refused(budget: str, wrong: float) -> None:
    limits: dict[str, Any] = {budget: wrong}
    with pytest.raises(ValueError, match="must be 0 or more"):
        advise(FOUR, **limits)


def test_biases_whose_intervals_overlap_are_told_by_time_and_then_memory() -> None:
    rows = table(
        cell("slow", 0.40, 30.0, 3.0, spread=0.1),
        cell("quick", 0.45, 10.0, 2.0, spread=0.1),
        cell("small", 0.48, 10.0, 1.0, spread=0.1),
        cell("apart", 0.70, 1.0, spread=0.1),
    )
    advice = advise(rows)
    assert list(advice["estimator"]) == ["small", "quick", "slow", "apart"]
    assert list(advice["tied_with"]) == ["slow; quick", "slow", "", ""]
    assert reasons(advice)["small"] == (
        "Its bias cannot be told from that of slow and quick, and it takes the least memory of "
        "them."
    )
    assert verdict(advice).startswith(
        "small (bias 0.48) takes the least memory of 3 whose biases, 0.4 the least, cannot be told "
        "apart: "
    )


def test_times_that_cannot_be_told_apart_decide_nothing() -> None:
    advice = advise(
        table(
            cell("quick", 0.0, 10.0, 2.0, noise=3.0),
            cell("small", 0.0, 12.0, 1.0, noise=3.0),
            cell("slow", 0.0, 30.0, 0.5, noise=3.0),
            cell("biased", 0.5, 9.0, 1.0, noise=3.0),
        )
    )
    assert list(advice["estimator"]) == ["small", "quick", "slow", "biased"]
    assert verdict(advice).startswith("small is exact, and the first choice of 3 that are: ")
    told = reasons(advice)
    assert told["small"] == "As exact as quick and slow."
    assert told["quick"] == "As exact as small, at 2 times the memory."
    assert told["biased"] == "Bias 0.5 where small is exact."
    two = advise(
        table(cell("quick", 0.0, 10.0, 2.0, noise=3.0), cell("small", 0.0, 12.0, 1.0, noise=3.0))
    )
    assert verdict(two).startswith("small is exact, and takes the least memory of 2 that are: ")
    assert reasons(two)["small"] == "As exact as quick, and takes less memory."


def test_errors_on_the_same_tasks_tell_biases_apart_that_intervals_do_not() -> None:
    errors = {"better": [0.1, 0.4, 0.9, 1.6], "worse": [0.2, 0.6, 1.2, 2.1], "quick": [9.0, 9.1]}
    rows = table(
        cell("better", 0.75, 20.0, spread=0.7),
        cell("worse", 1.025, 10.0, spread=0.9),
        cell("quick", 1.3, 5.0, spread=0.9),
    )
    assert list(advise(rows)["estimator"]) == ["quick", "worse", "better"]
    told = pd.DataFrame(
        [("run", f"cell of {name}", value) for name, values in errors.items() for value in values],
        columns=["run", "cell", "value"],
    )
    # The ratios are 2, 1.5, 1.33 and 1.31; of their logarithms the mean is .415 ± .309.
    advice = advise(rows, errors=told)
    assert list(advice["estimator"]) == ["better", "quick", "worse"]
    # Of "quick" other tasks are known, which tell nothing: it ties with "worse".
    assert list(advice["tied_with"]) == ["", "worse", ""]
    told.loc[3, "value"] = 2.2  # .335 ± .486
    assert list(advise(rows, errors=told)["estimator"]) == ["quick", "worse", "better"]


def test_a_place_goes_to_none_that_is_known_to_be_worse_than_one_it_passes() -> None:
    tasks = np.arange(1, 9) / 10
    errors = {"a": 0.98 * tasks[::-1], "b": 1.1 * tasks, "c": tasks}
    rows = table(
        cell("a", errors["a"].mean(), 30.0, spread=0.2),
        cell("b", errors["b"].mean(), 10.0, spread=0.2),
        cell("c", errors["c"].mean(), 20.0, spread=0.2),
    )
    told = pd.DataFrame(
        [("run", f"cell of {name}", value) for name, values in errors.items() for value in values],
        columns=["run", "cell", "value"],
    )
    advice = advise(rows, errors=told)
    # Neither b nor c can be told from a, but b is worse than c on every task.
    assert list(advice["estimator"]) == ["c", "b", "a"]
    assert list(advice["tied_with"]) == ["a", "a", ""]
    assert reasons(advice)["c"] == ("Its bias cannot be told from that of a, and it is quicker.")
    assert verdict(advice).startswith(
        "c (bias 0.45) is the quickest of 2 whose biases, 0.44 the least, cannot be told apart: "
    )


def test_what_is_nearly_exact_is_not_tied_with_what_is() -> None:
    rows = table(
        cell("exact", 9e-13, 30.0, spread=5e-13), cell("nearly", 1.2e-12, 10.0, spread=5e-13)
    )
    advice = advise(rows)
    assert list(advice["estimator"]) == ["exact", "nearly"]
    assert verdict(advice).startswith("exact is exact: ")


def test_one_wild_task_does_not_make_a_large_bias_a_small_one() -> None:
    rows = table(cell("fomaml", 0.2, 11.0, spread=0.1), cell("reptile", 31.0, 10.0, spread=40.0))
    assert list(advise(rows)["estimator"]) == ["fomaml", "reptile"]


def test_an_exact_one_does_not_tie_with_a_wide_interval_around_nothing() -> None:
    rows = table(cell("maml", 1e-16, 30.0), cell("binom(order=4)", 0.9, 10.0, spread=1.2))
    assert list(advise(rows)["estimator"]) == ["maml", "binom(order=4)"]


def test_infinite_and_equal_numbers_are_ranked() -> None:
    rows = table(cell("lost", math.inf), cell("one", 0.1, spread=0.01), cell("same", 0.1))
    advice = advise(rows, bias=0.2)
    assert list(advice["estimator"]) == ["one", "same", "lost"]
    assert reasons(advice)["one"] == "Its bias cannot be told from that of same."


def test_the_rows_are_left_as_they_are() -> None:
    before = FOUR.copy(deep=True)
    advise(FOUR, memory=0.06)
    pd.testing.assert_frame_equal(FOUR, before)


def may_be_first(rows: list[dict[str, Any]], row: dict[str, Any]) -> bool:
    """No bias up to this one's can be told from it or the least, exact ones being like no other."""
    least = min(rows, key=lambda one: one["bias"])
    if least["bias"] < 1e-12 or row["bias"] < 1e-12:
        return bool(max(least["bias"], row["bias"]) < 1e-12)
    up_to = [one for one in rows if one["bias"] <= row["bias"]]
    return all(
        more["bias"] <= less["bias_high"] and more["bias_low"] <= less["bias"]
        for one in up_to
        for less, more in ((least, one), (one, row))
    )


@pytest.mark.parametrize("seed", range(200))
def test_first_place_is_that_of_an_exhaustive_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = []
    for number in range(random.integers(1, 9)):
        exact = random.random() < 0.15
        bias = 1e-16 * random.random() if exact else random.uniform(0.01, 1.0)
        spread = 0.0 if exact else random.exponential(0.1)
        outcome = "failed" if random.random() < 0.1 else "ok"
        time, memory = random.integers(1, 6, 2)
        rows.append(cell(f"e{number}", bias, time, memory, spread=spread, outcome=outcome))
    memory, bias, time = random.integers(1, 6).item(), random.random(), random.integers(1, 6).item()
    fitting = [
        row
        for row in rows
        if row["outcome"] == "ok"
        and row["peak_memory"] <= memory
        and row["bias"] <= bias
        and row["time_ratio"] <= time
    ]
    advice = advise(table(*rows), memory=memory, bias=bias, time=time)
    assert sorted(advice["estimator"]) == sorted(row["estimator"] for row in rows)
    assert advice["fits"].sum() == len(fitting)
    assert advice["rank"].notna().sum() == sum(row["outcome"] == "ok" for row in rows)
    assert verdict(advice)
    if not fitting:
        return
    candidates = [row for row in fitting if may_be_first(fitting, row)]
    cost = [(row["time_ratio"], row["peak_memory"]) for row in candidates]
    chosen = next(row for row in rows if row["estimator"] == advice.loc[0, "estimator"])
    assert chosen in candidates
    assert (chosen["time_ratio"], chosen["peak_memory"]) == min(cost)
    # Each place is the first one among those that are left.
    for place in range(1, len(fitting)):
        left = set(advice["estimator"][place:])
        again = advise(table(*(row for row in fitting if row["estimator"] in left)))
        assert again["estimator"].iloc[0] == advice["estimator"].iloc[place]


def test_the_table_of_cells_has_what_it_takes(tmp_path: Path) -> None:
    long, _ = load(write_store(tmp_path))
    rows = cells(long)
    here = rows[
        (rows["version"] == rows["version"].iloc[0])
        & (rows["task"] == "sinusoid")
        & (rows["depth"] == 5)
    ]
    advice = advise(here, errors=samples(long, here, "bias"), memory=0.1)
    assert len(advice) == len(here)
    assert advice.loc[0, "estimator"] in ("maml", "adjoint")
    assert reasons(advice)["imaml(lam=8.0)"] == "Not ranked, timeout: not done after 1 s."
    assert "is exact, and the first choice of 2 that are" in verdict(advice)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *[(0.0, "0"), (3.512e-9, "3.5e-9"), (2e-17, "2e-17"), (0.00012, "0.00012")],
        *[(0.0198, "0.02"), (1.0, "1"), (9.96, "10"), (123.0, "120"), (12345.0, "12,000")],
        *[(999_999.0, "1e6"), (2.5e300, "2.5e300"), (math.inf, "infinite")],
    ],
)
def test_numbers_have_two_digits(number: float, text: str) -> None:
    assert number_text(number) == text
