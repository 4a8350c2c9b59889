"""How long a plan will take: what is counted, and how it is told."""

from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.cell import Cell
from harness.commands.dry_run import print_estimate
from harness.matrix.plan import Axes, Planned, expand
from harness.running.estimate import Estimate, Part, estimate
from harness.running.executor import Settings

PLAN = Axes(
    settings=(("quadratic", "linear"),),
    depths=(1, 40),
    estimators=("fomaml", "imaml", "binom-calibrated(order=1)"),
    ordered=("binom",),
    orders=(1, 20),
)
BROKEN = """
from dataclasses import dataclass
from harness.models import MODELS, Model

@MODELS.register("broken")
@dataclass(frozen=True)
class Broken(Model):
    def module(self, family):
        raise RuntimeError("no such module")
"""


def test_a_plan_is_estimated_part_by_part() -> None:
    planned = expand(PLAN)
    more = [
        replace(p, cell=replace(p.cell, depth=2, num_tasks=t)) for p in planned[:3] for t in (8, 90)
    ]
    trained = [replace(p, cell=replace(p.cell, depth=3, trained=10**5)) for p in planned[:1]]
    told = estimate([*planned, *more, *trained], Settings(jobs=2))
    assert [(part.depth, part.cells, part.skipped) for part in told.parts] == [
        (1, 4, 1),
        (40, 5, 0),
        (2, 6, 0),
        (3, 1, 0),
    ]
    assert {(part.task, part.model, part.device) for part in told.parts} == {
        ("quadratic", "linear", "cpu")
    }
    shallow, deep, _, trained_part = (part.seconds or 0.0 for part in told.parts)
    assert 0 < shallow < deep < trained_part < told.seconds
    assert told.seconds == told.start + sum(part.seconds or 0.0 for part in told.parts)
    assert told.remarks == {"binom: order=20 is outside 0..1 (the depth is 1)": 1}


def test_what_cannot_be_timed_is_told(tmp_path: Path) -> None:
    plugin = tmp_path / "broken_model.py"
    plugin.write_text(BROKEN, encoding="utf-8")
    sound = Cell.of(estimator="fomaml", task="quadratic", model="linear", depth=1)
    broken = replace(sound, model="broken")
    told = estimate([Planned(sound), Planned(broken)], Settings(jobs=1, plugins=(str(plugin),)))
    assert [part.seconds is None for part in told.parts] == [False, True]
    ((remark, count),) = told.remarks.items()
    assert remark.startswith("not estimated: RuntimeError: no such module")
    assert count == 1
    printed = shown(told)
    assert "1 × not estimated: RuntimeError: no such module" in printed
    assert "2 cells to measure, 0 skipped, at least " in printed


def shown(told: Estimate, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    print_estimate(told, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_dry_run_fits_a_narrow_screen() -> None:
    parts = [
        Part("sinusoid", "mlp-40-40(init='torch')", 5, "cpu", 11, 0, 3.4),
        Part("noise:84x84-5way-5shot", "conv4-32", 10, "cuda:0", 60, 3, 5400.0),
        Part("noise:84x84-5way-5shot", "conv4-32", 50, "cuda:1", 0, 3, 0.0),
    ]
    reasons = Counter({"hybrid: window=4 is more than the depth 1": 3, "cuda:1 is missing": 3})
    lines = shown(Estimate(parts, 1.0, 2, reasons)).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["task", "model", "K", "device", "cells", "skipped", "time"],
        ["sinusoid", "mlp-40-40(init='torch')", "5", "cpu", "11", "0", "3", "s"],
        ["noise:84x84-5way-5shot", "conv4-32", "10", "cuda:0", "60", "3", "1.5", "h"],
        ["noise:84x84-5way-5shot", "conv4-32", "50", "cuda:1", "0", "3", "-"],
    ]
    assert max(map(len, lines)) <= 80
    assert lines[5:] == [
        "3 × hybrid: window=4 is more than the depth 1",
        "3 × cuda:1 is missing",
        "71 cells to measure, 6 skipped, about 1.5 h with 2 workers",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "< 1 s"),
        (1.0, "1 s"),
        (89.0, "89 s"),
        (91.0, "1.5 min"),
        (240.0, "4 min"),
        (5399.0, "90 min"),
        (7200.0, "2 h"),
        (86400.0, "24 h"),
        (10 * 86400.0, "10 days"),
        (200 * 86400.0, "200 days"),
    ],
)
def test_times_have_the_unit_that_people_use(seconds: float, told: str) -> None:
    part = Part("sinusoid", "mlp-40-40", 5, "cpu", 1, 0, seconds)
    ending = shown(Estimate([part], 0.0, 1, Counter())).splitlines()[-1]
    assert ending == f"1 cell to measure, 0 skipped, about {told} with 1 worker"
