"""The comparison of two revisions: changes, verdicts, exit codes, reports."""

import io
import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from estimators.base.errors import UserError
from harness.gate.checkout import Checkout
from harness.gate.compare import EFFECT, Comparison, compare, summary, time_change
from harness.gate.measuring import Cells
from harness.gate.pairs import ROUNDS, Pairs, _Lost
from harness.gate.report import as_json, markdown, print_comparison, write
from harness.gate.waivers import Waiver, parse
from harness.matrix.outcome import Status
from harness.store.runs import CellResult, StageResult

NAME = "sinusoid/mlp-40-40/K5/alpha0.01/binom(order=2)/cpu/float32/seed0/tasks2"
OTHER = NAME.replace("binom(order=2)", "fomaml")
SAMPLES: dict[str, list[float]] = {
    **{"bias": [0.1, 0.3], "cosine_distance": [1e-3, 2e-3], "flops": [1e6], "hvps": [8]},
    **{"peak_memory": [4096], "retained_memory": [0], "curvature": [0.1], "resident_memory": [5e6]},
}


def result(status: Status = Status.OK, reason: str = "", **samples: Any) -> CellResult:
    known = SAMPLES | samples if status is Status.OK else {}
    stage = StageResult(status, reason, "", known, [], 1.0, {})
    return CellResult(NAME, {}, {"score": stage})


def compared(base: CellResult, head: CellResult, **more: Any) -> Comparison:
    return compare({NAME: base}, {NAME: head}, names=("a", "b"), **more)


def test_the_same_is_no_change() -> None:
    found = compared(result(), result())
    assert (found.changes, found.exit_code, found.cells) == ([], 0, 1)
    assert found.numbers == len(SAMPLES) - 1, "resident memory is no number that repeats"
    assert "nothing has changed" in summary(found)


def test_any_repeatable_metric_shows_a_change() -> None:
    changed: dict[str, Any]
    for changed, verdict in (
        ({"bias": [0.1, 0.31]}, "worse"),
        ({"bias": [0.1, 0.29]}, "better"),
        ({"bias": [0.3, 0.1]}, "other"),  # of each task, though not of their mean
        ({"flops": [1e6 + 1]}, "worse"),
        ({"hvps": [7]}, "better"),
        ({"retained_memory": [4]}, "worse"),
        ({"curvature": [0.2]}, "other"),
        ({"bias": [math.nan, 0.3]}, "worse"),
    ):
        found = compared(result(), result(**changed))
        assert [(one.metric, one.verdict) for one in found.changes] == [(*changed, verdict)]
        assert found.exit_code == (1 if verdict == "worse" else 0), changed
    same: list[dict[str, Any]] = [
        {"bias": [0.1 * (1 + 1e-9), 0.3]},  # another order of summation
        {"cosine_distance": [1e-3 * (1 + 1e-9), 2e-3]},
        {"resident_memory": [9e6]},
    ]
    for changed in same:
        assert compared(result(), result(**changed)).changes == [], changed


def test_a_metric_that_is_gone_is_worse_and_a_new_one_is_welcome() -> None:
    head = result()
    del head.stages["score"].samples["retained_memory"]
    found = compared(result(retained_memory=[4]), head)
    (change,) = found.regressions
    assert (change.metric, change.about) == ("retained_memory", "is not measured any more")
    assert (found.numbers, found.exit_code) == (len(SAMPLES) - 2, 1)
    assert compared(head, result(retained_memory=[4])).changes == []
    head.stages["score"].samples.clear()
    assert compared(head, head).exit_code == 2, "nothing was compared"


def test_a_cell_that_worked_and_fails_could_not_be_measured() -> None:
    for status in (Status.FAILED, Status.CRASHED, Status.DIVERGED, Status.SKIPPED):
        found = compared(result(), result(status, "why"))
        assert [(one.metric, one.verdict) for one in found.changes] == [("outcome", "worse")]
        assert "why" in found.changes[0].about
        assert found.exit_code == 2, status
        assert compared(result(status, "why"), result()).changes[0].verdict == "better", status


def test_cells_of_one_side_only() -> None:
    base: Cells = {NAME: result(), OTHER: result()}
    gone = compare(base, {OTHER: result()}, names=("a", "b"))
    assert (gone.cells, gone.exit_code) == (1, 2)
    assert compare({OTHER: result()}, base, names=("a", "b")).exit_code == 0, "a new one is welcome"
    none = compare({}, {NAME: result()}, names=("a", "b"))
    assert (none.exit_code, summary(none)) == (2, "Nothing could be compared.")


def rounds(ratio: float, noise: float, seed: int) -> list[tuple[float, float]]:
    random = np.random.default_rng(seed)
    logs = math.log(ratio) + noise * random.standard_normal(ROUNDS)
    return [(0.01, 0.01 * math.exp(one)) for one in logs]


def test_times_that_differ_in_every_round_are_changes() -> None:
    for ratio, verdict in ((1.3, "worse"), (0.7, "better")):
        change = time_change(NAME, rounds(ratio, 0.05, 0))
        assert change is not None
        assert (change.metric, change.verdict) == ("time", verdict)
        assert change.ratio == pytest.approx(ratio, rel=0.1)
    slow_once = [(0.01, 0.01)] * (ROUNDS - 2) + [(0.01, 0.05)] * 2
    for small in (rounds(1 + EFFECT / 2, 0.001, 0), slow_once):
        assert time_change(NAME, small) is None


@pytest.mark.slow
def test_same_code_is_hardly_ever_found_slower() -> None:
    """Rounds that differ by 10 %, which is more than they do on a busy machine."""
    found = [time_change(NAME, rounds(1.0, 0.1, seed)) for seed in range(2000)]
    assert sum(one is not None for one in found) <= 2


def test_times_and_errors_of_timing() -> None:
    pairs = Pairs({NAME: rounds(2.0, 0.05, 1)}, {OTHER: "the process ended"})
    slower = compared(result(), result(), pairs=pairs)
    assert [(one.metric, one.verdict) for one in slower.changes] == [("time", "worse")]
    assert any("the process ended" in note for note in slower.notes)
    assert slower.exit_code == 1
    base, head = (Checkout(name, "", Path(), (), Path()) for name in "ab")
    lost = Pairs()
    lost.drop([NAME], _Lost("ended", base), head)
    untimed = compared(result(), result(), pairs=lost)
    assert (untimed.exit_code, untimed.changes, len(untimed.notes)) == (0, [], 1)
    lost.drop([NAME], _Lost("ended", head), head)
    assert compared(result(), result(), pairs=lost).exit_code == 2, "broken by the head"


WAIVER = Waiver("sinusoid/*/binom*", "bias", "one term less on purpose", date(2030, 1, 31))
WORSE = result(bias=[0.2, 0.3])


def test_a_waiver_accepts_what_it_names_until_its_day() -> None:
    on = date(2030, 1, 31)
    accepted = compared(result(), WORSE, waivers=[WAIVER], today=on)
    assert (accepted.exit_code, accepted.changes[0].accepted) == (0, WAIVER.reason)
    assert "1 worse, and accepted" in summary(accepted)
    both = compared(result(), result(bias=[0.2, 0.3], flops=[2e6]), waivers=[WAIVER], today=on)
    assert [one.metric for one in both.regressions] == ["flops"]
    expired = compared(result(), WORSE, waivers=[WAIVER], today=date(2030, 2, 1))
    unused = compared(result(), result(), waivers=[WAIVER], today=on)
    for comparison, code, word in ((expired, 1, "expired"), (unused, 0, "not needed")):
        assert comparison.exit_code == code
        assert [word in note for note in comparison.notes] == [True]


ENTRY = '[[waiver]]\ncell = "*"\nmetric = "bias"\nreason = "why"\nexpires = 2030-01-31\n'


def test_files_that_are_no_waivers_are_refused() -> None:
    texts: list[tuple[str | bytes, str]] = [
        ("[[waiver", "TOML"),
        (ENTRY.replace("why", "für").encode("latin-1"), "UTF-8"),
        ("[waiver]\ncell = 'a'", "table"),
        ("name = 1", "table"),
        (ENTRY.replace('reason = "why"\n', ""), "waiver 1.*'reason'"),
        (ENTRY.replace('"why"', '""'), "'reason'"),
        (ENTRY.replace("2030-01-31", '"soon"'), "'expires', a date"),
        (ENTRY.replace("2030-01-31", "2030-01-31T10:00:00"), "'expires', a date"),
        (ENTRY + "metrics = 1", "metrics"),
    ]
    for text, named in texts:
        with pytest.raises(UserError, match=named):
            parse(text)
    assert parse(("\ufeff" + ENTRY).encode()) == parse(ENTRY)  # as some editors write it


def test_reports(tmp_path: Path, file_regression: Any) -> None:
    """Terminal, Markdown and JSON in one golden file."""
    head = result(bias=[0.2, 0.3], flops=[2e6], hvps=[4])
    day = date(2030, 1, 31)
    found = compared(result(), head, waivers=[WAIVER], today=day, notes=["a | note of @you"])
    console = Console(record=True, width=200, file=io.StringIO())
    print_comparison(found, console)
    files = [path.read_text(encoding="utf-8") for path in write(found, tmp_path / "new")]
    assert files == [markdown(found), as_json(found)]
    file_regression.check("\n".join([console.export_text(), *files]), extension=".txt")


def test_markup_and_missing_numbers_in_reports(tmp_path: Path) -> None:
    odd = r"a \[/b] and [/red] and [bold]"
    comparison = compared(result(), result(Status.FAILED, odd))
    console = Console(width=300, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    assert odd in console.export_text()
    write(comparison, tmp_path)
    (change,) = json.loads(as_json(comparison))["changes"]
    assert (change["base"], change["ratio"], change["metric"]) == (None, None, "outcome")
