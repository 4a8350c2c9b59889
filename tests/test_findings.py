"""Sentences on results that stand out, from tables whose answer is known."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from pytest_regressions.file_regression import FileRegressionFixture

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
        "spread": NAN,
        **more,
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows) or [cell("maml")])
    return frame.assign(order=frame["order"].astype("Int64")).head(len(rows))


TRUNCATED = cell("truncated(order=4)", 0.0198, order=4, spread=1e-3)
BINOM = cell("binom(order=4)", 3.5e-9, order=4, spread=1e-10)
MAML = cell("maml", 1e-17, time=20.0, memory=60.0)
ADJOINT = cell("adjoint", 0.0, time=26.0, memory=30.0)
FIRST = cell("fomaml", 0.6, spread=0.05)
BAD = cell("binom(order=2)", 1.4, order=2, spread=0.5, hvps=8.0)
BOUND = {"bound": 0.1, "bound_low": 0.09, "bound_high": 0.11}
BROKEN = cell("binom(order=2)", 0.4, order=2, spread=0.1, **BOUND)
FAILED = [cell(name, outcome=end) for name, end in (("a", "failed"), ("b", "failed"))]
FAILED.append(cell("c", outcome="crashed"))


def test_findings_as_people_read_them(file_regression: FileRegressionFixture) -> None:
    others = [cell("truncated(order=2)", 0.3, order=2), cell("binom(order=2)", 0.1, order=2)]
    also = cell("neumann", 1.1, spread=0.1, hvps=5.0)
    near = cell("truncated(order=4)", 0.008, spread=0.001, time=5.0, memory=50.0)
    noisy = cell("adjoint", 0.0, time=20.5, memory=30.0)
    tables = [
        *([*others, TRUNCATED, BINOM], [MAML, ADJOINT], [MAML, noisy], [MAML, ADJOINT, near]),
        *([FIRST, BAD], [FIRST, BAD, also, also | {"estimator": "hybrid"}], [BROKEN]),
        *([*FAILED, cell("d", outcome="skipped"), TRUNCATED, BINOM], FAILED),
        [MAML, ADJOINT, FIRST, BAD, TRUNCATED, BINOM, FAILED[0]],  # of more than three kinds
    ]
    texts = ["\n".join(findings(table(*rows))) for rows in tables]
    file_regression.check("\n\n".join(texts), extension=".txt")


def test_no_gap_is_found_where_there_is_none() -> None:
    changes: list[dict[str, Any]] = [
        *({"order": 3}, {"order": None}, {"bias_high": 0.5}, {"outcome": "timeout"}),
        *({"task": "glyphs"}, {"trained": 100}, {"rest": "other"}, {"depth": 10}),
        {"estimator": "krylov(products=4)"},  # as many of something else
        *({"version": "new@there"}, {"version": "old@here"}, {"bias_low": NAN, "bias_high": NAN}),
        *(dict.fromkeys(("bias", "bias_low", "bias_high"), value) for value in (1e-17, 0.0, NAN)),
    ]
    for change in changes:
        lines = findings(table(TRUNCATED, BINOM | change))
        assert not [one for one in lines if "less than" in one], change


def test_what_is_no_finding() -> None:
    rounding = {"bias": 1e-16, "bias_low": 1e-16, **dict.fromkeys(BOUND, 0.0)}
    newer = [row | {"version": "newer@here"} for row in (TRUNCATED, cell("fomaml", 0.1))]
    far = cell("truncated(order=4)", 0.008, time=5.0, memory=50.0) | {"bias_high": 0.02}
    for rows in (
        *([], [MAML, far], [MAML, MAML | {"estimator": "adjoint"}], [cell("d", outcome="skipped")]),
        *([MAML, ADJOINT | {"time_ratio": NAN}], [MAML, ADJOINT | {"peak_memory": 0.0}]),
        *([FIRST, BAD | {"bias_low": 0.64}], [FIRST, cell("reptile", 9.0)]),
        [FIRST, cell("imaml", 9.0, hvps=5.0, own_bias=1e-4)],  # of another objective
        *([cell("fomaml", 0.0), BAD], [BROKEN | {"bias_low": 0.1}], [BROKEN | rounding]),
        [cell("maml"), cell("binom(order=4)", order=4)],
        [*newer, TRUNCATED, BINOM],  # of which the others are older
    ):
        assert findings(table(*rows)) == [], [row["estimator"] for row in rows]


def test_settings_are_named_apart() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        *(({"trained": 800}, "800"), ({"device": "cuda:0"}, "cuda:0")),
        *(({"rest": "float64, seed 1"}, "float64, seed 1"),),
        ({"version": "new@there", "machine_label": "there"}, "there"),
    ]
    for change, text in changes:
        line = findings(table(cell("maml", 0.0), TRUNCATED | change, BINOM | change))[0]
        assert text in line.partition(")")[0], line


def test_numbers_of_findings_are_in_the_store(tmp_path: Path) -> None:
    long, _ = load(write_large_store(tmp_path, commits=6, measurements=3_000))
    rows = cells(long)
    lines = findings(rows)
    assert 1 <= len(lines) <= 3
    newest = rows[rows["commit"] == rows["commit"].iloc[0]]
    pair = newest[(newest["order"] == 4) & (newest["model"] == "mlp-40-40")]
    less, more = sorted(set(pair[pair["depth"] == 5]["bias"].dropna()))
    assert f"{float(f'{more / less:.2g}'):,.0f} times" in lines[0]
