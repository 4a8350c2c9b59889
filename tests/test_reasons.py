"""Why an estimator has its place, as people say it."""

import pandas as pd
import pytest

from reports.tables.advice import advise, verdict
from reports.tables.reasons import listed, times_text
from tests.support.advice_rows import FOUR, NAN, cell, reasons, table


def test_dominated_ones_say_by_whom() -> None:
    rows = table(
        cell("best", 0.1, 10.0, 1.0, spread=0.01, noise=1.0),
        cell("slower by noise", 0.1, 10.5, 1.0, spread=0.01, noise=1.0),
        cell("biased by noise", 0.105, 10.0, 1.0, spread=0.01, noise=1.0),
        cell("slower", 0.1, 15.0, 1.0, spread=0.01, noise=1.0),
        cell("larger", 0.1, 10.0, 1.1, spread=0.01, noise=1.0),
        cell("quicker", 0.5, 5.0, 1.0, noise=1.0),
        cell("worse in all", 0.6, 20.0, 3.0, noise=1.0),
        cell("unknown time", 0.7, NAN, 3.0),
        cell("failed", 0.01, 0.1, 0.1, outcome="failed"),
    )
    advice = advise(rows).set_index("estimator")
    dominated = advice["dominated_by"].to_dict()
    assert dominated == {
        **dict.fromkeys(["best", "slower by noise", "biased by noise"], ""),
        **dict.fromkeys(["quicker", "unknown time", "failed"], ""),
        **{"slower": "best", "larger": "best", "worse in all": "best"},
    }
    assert (
        advice.loc["slower", "why"] == "Worse than best in time, and no better in bias and memory."
    )
    assert advice.loc["worse in all", "why"] == "Worse than best in bias, time and memory."


def test_estimators_with_an_objective_of_their_own_say_so() -> None:
    advice = advise(table(cell("maml", 0.0), cell("imaml", 0.22, 5.0, own=8.5e-5)), memory=0.5)
    assert reasons(advice)["imaml"] == (
        "Needs 2 times the memory; it optimises another objective than MAML's, on which its bias "
        "is 8.5e-5."
    )
    assert "objective" not in reasons(advice)["maml"]


def test_cells_that_did_not_end_well_have_no_rank() -> None:
    rows = table(
        cell("late", 0.1, NAN, outcome="timeout", reason="not done after 1 s"),
        cell("biased", 0.2),
        cell("unscored", NAN),
        cell("exploded", NAN, NAN, NAN, outcome="diverged", reason="task 3 is not finite."),
    )
    advice = advise(rows, memory=5)
    assert list(advice["estimator"]) == ["biased", "late", "unscored", "exploded"]
    assert advice["rank"].fillna(0).to_list() == [1, 0, 0, 0]
    assert list(advice["fits"]) == [True, False, False, False]
    assert list(advice["why"][1:]) == [
        "Not ranked, timeout: not done after 1 s.",
        "Not ranked: its bias was not measured.",
        "Not ranked, diverged: task 3 is not finite.",
    ]
    assert verdict(advise(rows.drop(index=1))) == (
        "There is nothing to choose from: no estimator's bias is known here "
        "(1 timeout, 1 ok, 1 diverged)."
    )


def test_what_was_not_measured_fits_no_budget() -> None:
    rows = table(cell("untimed", 0.0, NAN), cell("heavy", 0.1, 30.0, 9.0))
    advice = advise(rows, time=20)
    assert list(advice["estimator"]) == ["heavy", "untimed"]
    assert reasons(advice)["untimed"] == "Has no time / inner gradient measured."
    assert list(advise(rows)["estimator"]) == ["untimed", "heavy"]
    assert verdict(advise(rows)) == "untimed is exact: 1 MiB."


@pytest.mark.parametrize("empty", [FOUR.head(0), pd.DataFrame(columns=FOUR.columns)])
def test_no_rows_give_no_advice(empty: pd.DataFrame) -> None:
    advice = advise(empty, memory=1, bias=0.1, time=1)
    assert advice.empty
    assert list(advice.columns) == list(advise(FOUR).columns)
    assert verdict(advice) == "There is nothing to choose from: no estimator's bias is known here."


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        *[(1.84, "1.8"), (999_999, "1 million"), (5_661_000, "5.7 million")],
        *[(3.2e9, "3.2 billion"), (9.99e11, "1 trillion"), (4e15, "4e15")],
    ],
)
def test_factors_are_said_as_people_say_them(factor: float, text: str) -> None:
    assert times_text(factor) == f"{text} times"


def test_lists_are_sentences() -> None:
    assert [listed("abcde"[:n]) for n in range(1, 6)] == [
        *("a", "a and b", "a, b and c", "a, b, c and d", "a, b, c and 2 more")
    ]
