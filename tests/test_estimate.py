"""How long a plan takes: what is counted, and how it is printed."""

from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

from pytest_regressions.file_regression import FileRegressionFixture
from rich.console import Console

from harness.cell import Cell
from harness.commands.dry_run import print_estimate
from harness.matrix.plan import Axes, Planned, expand
from harness.running.estimate import Estimate, Part, estimate
from harness.running.executor import Settings

PLAN = Axes(
    settings=(("quadratic", "linear"),),
    depths=(1, 40),
    estimators=("fomaml", "imaml", "binom-chebyshev(order=1)"),
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


def test_a_plan_is_estimated_part_by_part(tmp_path: Path) -> None:
    plugin = tmp_path / "broken_model.py"
    plugin.write_text(BROKEN, encoding="utf-8")
    planned = expand(PLAN)
    trained = replace(planned[0].cell, depth=3, trained=10**7)
    broken = Cell.of(estimator="fomaml", task="quadratic", model="linear", depth=1)
    planned += [Planned(trained), Planned(replace(broken, model="broken"))]
    expected = estimate(planned, Settings(jobs=2, plugins=(str(plugin),)))
    assert [(part.model, part.depth, part.cells, part.skipped) for part in expected.parts] == [
        ("linear", 1, 4, 1),
        ("linear", 40, 5, 0),
        ("linear", 3, 1, 0),
        ("broken", 1, 1, 0),
    ]
    *known, unknown = (part.seconds for part in expected.parts)
    assert unknown is None
    assert all(known)
    assert max(seconds or 0.0 for seconds in known) == known[2]
    assert expected.seconds == expected.start + sum(seconds or 0.0 for seconds in known)
    (skipped, failed) = expected.remarks
    assert skipped.startswith("binom: order=20")
    assert "RuntimeError: no such module" in failed
    assert set(expected.remarks.values()) == {1}


def printed(expected: Estimate) -> str:
    console = Console(file=StringIO(), width=80)
    print_estimate(expected, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_dry_run_fits_a_narrow_screen(file_regression: FileRegressionFixture) -> None:
    parts = [
        Part("sinusoid", "mlp-40-40(init='torch')", 5, "cpu", 11, 0, 3.4),
        Part("noise:84x84-5way-5shot", "conv4-32", 10, "cuda:0", 60, 3, 5400.0),
        Part("noise:84x84-5way-5shot", "conv4-32", 20, "cuda:0", 1, 0, None),
        Part("noise:84x84-5way-5shot", "conv4-32", 50, "cuda:1", 0, 3, 0.0),
    ]
    reasons = Counter({"hybrid: window=4 is more than the depth 1": 3, "cuda:1 is missing": 3})
    text = printed(Estimate(parts, 1.0, 2, reasons))
    assert max(map(len, text.splitlines())) <= 80
    for seconds in (0.2, 1.0, 89.0, 91.0, 240.0, 5399.0, 7200.0, 86400.0, 864e3, 1728e4):
        part = Part("sinusoid", "mlp-40-40", 5, "cpu", 1, 0, seconds)
        text += printed(Estimate([part], 0.0, 1, Counter())).splitlines()[-1] + "\n"
    file_regression.check(text, extension=".txt")
