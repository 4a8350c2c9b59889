"""Which estimator to use: the ranking, its columns, and the sentence on top."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest_regressions.file_regression import FileRegressionFixture

from harness.matrix.metrics import METRICS
from harness.support.units import bytes_of
from reports.tables.advice import advise, by_memory, verdict
from reports.tables.text import as_text, ranking

NAN = math.nan


def cell(
    estimator: str,
    bias: float = 0.5,
    time: float = 10.0,
    memory: float = 1.0,
    *,
    spread: float = 0.0,
    noise: float = 0.0,
    own: float = NAN,
    outcome: str = "ok",
    reason: str = "",
) -> dict[str, Any]:
    """A row with the interval bias ± spread and the quartiles time ± noise."""
    return {
        **{"run": "run", "cell": f"cell of {estimator}", "estimator": estimator},
        **{"family": estimator.partition("(")[0], "order": pd.NA, "own_bias": own},
        **{"bias": bias, "bias_low": bias - spread, "bias_high": bias + spread},
        **{"time_ratio": time, "time_ratio_low": time - noise, "time_ratio_high": time + noise},
        **{"peak_memory": memory, "outcome": outcome, "reason": reason},
        **dict.fromkeys(("spread", "rmse", "rmse_low", "rmse_high", "bias_limit"), NAN),
        **{"bias_chance": NAN},
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def samples_of(errors: dict[str, list[float]]) -> pd.DataFrame:
    rows = [("run", f"cell of {name}", one) for name, values in errors.items() for one in values]
    return pd.DataFrame(rows, columns=["run", "cell", "value"])


FOUR = table(
    cell("fomaml", 0.1, 6.0, 0.025),
    cell("maml", 3e-17, 11.4, 0.077),
    cell("binom(order=4)", 3.5e-9, 21.6, 0.05, spread=1e-10),
    cell("adjoint", 0.0, 18.4, 0.08),
)
TIED = table(
    cell("slow", 0.40, 30.0, 3.0, spread=0.1),
    cell("quick", 0.45, 10.0, 2.0, spread=0.1),
    cell("small", 0.48, 10.0, 1.0, spread=0.1),
    cell("apart", 0.70, 1.0, spread=0.1),
)
UNRANKED = table(
    cell("late", 0.1, NAN, outcome="timeout", reason="not done after 1 s"),
    cell("biased", 0.2, own=8.5e-5),
    cell("unscored", NAN),
    cell("exploded", NAN, NAN, NAN, outcome="diverged", reason="task 3 is not finite"),
)


def test_rankings_as_people_read_them(file_regression: FileRegressionFixture) -> None:
    lines = []
    for advice in (
        advise(FOUR),
        advise(FOUR, memory=0.06),
        advise(FOUR, memory=0.02, bias=0.05),
        advise(FOUR, memory=0.079, bias=0.01, time=20),
        advise(FOUR, bias=0),
        advise(TIED),
        advise(UNRANKED, memory=5),
        advise(UNRANKED.drop(index=1)),
        advise(FOUR.head(0), time=1),
    ):
        shown = ranking(advice)
        lines += [verdict(advice), *map(" | ".join, [[*map(str, shown)], *as_text(shown)]), ""]
    file_regression.check("\n".join(lines), extension=".txt")


def test_budgets_decide_which_ones_fit() -> None:
    advice = advise(FOUR, memory=0.06)
    assert list(advice["fits"]) == [True, True, False, False]
    assert advice["beyond"].to_list()[2:] == pytest.approx([0.077 / 0.06, 0.08 / 0.06])
    # fomaml exceeds two budgets: 1.25 times the one, twice the other.
    advice = advise(FOUR, memory=0.02, bias=0.05)
    assert not advice["fits"].any()
    assert advice["beyond"][1] == pytest.approx(1.25 * 2)
    for budget in ("memory", "time"):
        limits: dict[str, Any] = {budget: 0}
        assert not advise(FOUR, **limits)["fits"].any(), budget
    before = FOUR.copy(deep=True)
    advise(FOUR, memory=0.06)
    pd.testing.assert_frame_equal(FOUR, before)


def test_a_budget_that_is_no_number_is_refused() -> None:
    for budget in ("memory", "bias", "time"):
        for wrong in (-1.0, NAN):
            limits: dict[str, Any] = {budget: wrong}
            with pytest.raises(ValueError, match="must be 0 or more"):
                advise(FOUR, **limits)


def test_ties_go_to_time_and_then_to_memory() -> None:
    noisy = table(
        cell("quick", 0.0, 10.0, 2.0, noise=3.0),
        cell("small", 0.0, 12.0, 1.0, noise=3.0),
        cell("slow", 0.0, 30.0, 0.5, noise=3.0),
    )
    assert list(advise(noisy)["estimator"]) == ["small", "quick", "slow"]
    # An infinite number is ranked, too.
    rows = table(cell("lost", math.inf), cell("one", 0.1, spread=0.01), cell("same", 0.1))
    advice = advise(rows, bias=0.2)
    assert list(advice["estimator"]) == ["one", "same", "lost"]
    assert advice["tied_with"][0] == "same"


def test_noise_makes_none_dominated() -> None:
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
    dominated = advise(rows).set_index("estimator")["dominated_by"]
    assert dominated[dominated != ""].to_dict() == dict.fromkeys(
        ["slower", "larger", "worse in all"], "best"
    )


def test_an_unmeasured_cost_fits_no_budget() -> None:
    rows = table(cell("untimed", 0.0, NAN), cell("heavy", 0.1, 30.0, 9.0))
    advice = advise(rows, time=20)
    assert list(advice["estimator"]) == ["heavy", "untimed"]
    assert "not measured" in advice["beyond_budget"][1]
    assert list(advise(rows)["estimator"]) == ["untimed", "heavy"]
    for empty in (FOUR.head(0), pd.DataFrame(columns=FOUR.columns)):
        assert list(advise(empty, memory=1, bias=0.1).columns) == list(advise(FOUR).columns)


def test_errors_on_the_same_tasks_tell_biases_apart_that_intervals_do_not() -> None:
    errors = {"better": [0.1, 0.4, 0.9, 1.6], "worse": [0.2, 0.6, 1.2, 2.1], "quick": [9.0, 9.1]}
    rows = table(
        cell("better", 0.75, 20.0, spread=0.7),
        cell("worse", 1.025, 10.0, spread=0.9),
        cell("quick", 1.3, 5.0, spread=0.9),
    )
    assert list(advise(rows)["estimator"]) == ["quick", "worse", "better"]
    by_task = samples_of(errors)
    # The ratios are 2, 1.5, 1.33 and 1.31; of their logarithms the mean is .415 ± .309.
    advice = advise(rows, errors=by_task)
    assert list(advice["estimator"]) == ["better", "quick", "worse"]
    # Of "quick" other tasks are known, which tell nothing: it ties with "worse".
    assert list(advice["tied_with"]) == ["", "worse", ""]
    by_task.loc[3, "value"] = 2.2  # .335 ± .486
    assert list(advise(rows, errors=by_task)["estimator"]) == ["quick", "worse", "better"]
    # Neither b nor c can be told from a, but b is worse than c on every task.
    tasks = np.arange(1, 9) / 10
    errors = {"a": [*(0.98 * tasks[::-1])], "b": [*(1.1 * tasks)], "c": [*tasks]}
    times = {"a": 30.0, "b": 10.0, "c": 20.0}
    rows = table(*(cell(k, float(np.mean(errors[k])), times[k], spread=0.2) for k in errors))
    advice = advise(rows, errors=samples_of(errors))
    assert list(advice["estimator"]) == ["c", "b", "a"]
    assert list(advice["tied_with"]) == ["a", "a", ""]
    assert "quickest of 2" in verdict(advice)


def test_exact_ones_tie_with_nothing_else() -> None:
    nearly = table(
        cell("exact", 9e-13, 30.0, spread=5e-13), cell("nearly", 1.2e-12, 10.0, spread=5e-13)
    )
    assert list(advise(nearly)["estimator"]) == ["exact", "nearly"]
    wide = table(cell("maml", 1e-16, 30.0), cell("binom(order=4)", 0.9, 10.0, spread=1.2))
    assert list(advise(wide)["estimator"]) == ["maml", "binom(order=4)"]
    # One wild task does not make a large bias a small one.
    wild = table(cell("fomaml", 0.2, 11.0, spread=0.1), cell("reptile", 31.0, 10.0, spread=40.0))
    assert list(advise(wild)["estimator"]) == ["fomaml", "reptile"]


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


def test_first_place_is_that_of_an_exhaustive_search() -> None:
    for seed in range(100):
        _check_against_exhaustive_search(seed)


def _check_against_exhaustive_search(seed: int) -> None:
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
    assert sorted(advice["estimator"]) == sorted(row["estimator"] for row in rows), seed
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


def test_each_budget_of_memory_names_the_first_choice() -> None:
    choices = by_memory(FOUR)
    limits = [bytes_of(text) / METRICS["peak_memory"].scale for text in choices["memory, from"]]
    assert limits == sorted(limits)
    assert len(limits) > 1
    for limit, name in zip([*limits, 1e9], [*choices["estimator"], "maml"], strict=True):
        assert advise(FOUR, memory=limit * 1.01).iloc[0]["estimator"] == name
    for rows in (FOUR.iloc[:0], FOUR.assign(outcome="crashed")):
        assert by_memory(rows).empty
