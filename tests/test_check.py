"""The conformance suite finds what is wrong, and `metagrad check` tells it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from estimators import OptionError
from estimators.base.registry import ESTIMATORS
from harness.conformance import CHECKS, Finding, Subject, Verdict, examine, score, scored_on
from harness.conformance.cases import SYNTHETIC, TASKS, case
from harness.conformance.isolation import Suite
from harness.support.plugins import load_plugins

COMMAND = Path(sys.executable).with_name("metagrad")
PLUGINS = ("tests.support.nonconforming", "tests.support.faulty")

# What is wrong, the check that finds it, and words of its reason.
BROKEN = [
    ("returns-a-dict", "result-is-well-formed", "everywhere: it returns a dict, not a MetaGrad"),
    ("forgets-a-key", "result-is-well-formed", "it must have those of the parameters, in their"),
    ("flattens", "result-is-well-formed", "gradient['first'] is of shape (8,), its parameter of"),
    ("always-double", "result-is-well-formed", "is float64, its parameter float32 (at depth 1 in"),
    ("counts-with-tensors", "result-is-well-formed", "hvps is a Tensor; it must be an int"),
    ("raises-quietly", "result-is-well-formed", "KeyError: 'no such\\nparameter', at nonconform"),
    ("stumbles-on-scalars", "result-is-well-formed", "on uneven: TypeError: len() of a 0-d tensor"),
    (
        "fits-nothing",
        "result-is-well-formed",
        "unsupported_reason() names every depth from 1 to 32, the last",
    ),
    ("refuses-everything", "result-is-well-formed", "it refuses every case, such as sinusoid/mlp"),
    ("not-finite", "estimate-is-finite", "on uneven: gradient['idle'] is not finite at depth 1"),
    ("loss-before", "outer-loss-is-that-of-the-adapted", "on quartic: outer_loss is 12.5454, and"),
    (
        "one-step-short",
        "adapted-parameters-are-those-of-gradient-descent",
        "at depth 3 they are 1.7e-01 off",
    ),
    ("imprecise", "single-precision-follows-double", "off (relative; 1e-3 would do)"),
    ("decays-weights", "unused-parameter-has-no-gradient", "on uneven: it has length 0.87"),
    ("hides-products", "products-are-reported", "hvps=0 is reported and 1 are taken at depth 1"),
    ("understates-its-cost", "cost-is-what-is-taken", "cost(4).hvps is 3, and 4 are reported"),
    ("own-gradient-of-nothing", "own-exact-gradient-is-well-formed", "has the keys (none); it"),
    ("changes-parameters", "parameters-are-left-alone", "parameter 'w' is changed; work on a copy"),
    ("changes-grad", "parameters-are-left-alone", ".grad of parameter 'w' is changed"),
    ("needs-gradients-on", "grad-mode-does-not-matter", "(under torch.no_grad(), with plain tens"),
    ("leaves-gradients-off", "grad-mode-does-not-matter", "gradients are off after the call"),
    ("returns-a-graph", "nothing-returned-is-part-of-a-graph", "outer_loss is, and keeps it in"),
    ("returns-its-input", "result-outlives-a-step-on-the-parameters", "gradient['w'] changes with"),
    ("rolls-dice", "same-call-gives-the-same-bits", "gradient['w'] differs; draw random numbers"),
    ("hoards", "no-tensor-is-left-behind", "three calls leave 9 behind, of shape (1, 4), (4, 2)"),
    ("hoards", "no-tensor-is-left-behind", "something keeps them"),
    ("goes-in-circles", "no-tensor-is-left-behind", "they wait for the garbage collector, in cyc"),
    ("follows-autocast", "autocast-does-not-matter", "gradient['first'] is bfloat16, its paramet"),
    ("mutable", "estimator-is-a-value", "its class is not frozen: put @dataclass(frozen=True)"),
    ("no-dataclass", "estimator-is-a-value", "its class is no dataclass: put @dataclass(frozen="),
    ("never-equal", "estimator-is-a-value", "two made from one specification are not equal"),
    ("unhashable", "estimator-is-a-value", "it cannot be hashed: unhashable type: 'list'"),
    ("unreadable-option", "specification-is-canonical", "unreadable-option(limit=nan), and cann"),
    (
        "fails-without-steps",
        "unsupported-reason-is-true",
        "unsupported_reason(0) is None, but at that depth: Zer",
    ),
    (
        "refuses-in-silence",
        "unsupported-reason-is-true",
        "unsupported_reason(5) is None, but at that depth: it r",
    ),
    (
        "ignores-its-reason",
        "unsupported-reason-is-true",
        "is 'too deep', but a call is not refused",
    ),
    (
        "reason-is-a-flag",
        "unsupported-reason-is-true",
        "unsupported_reason(5) is True; it must be None or tell",
    ),
    ("sums-vectors", "loss-that-is-no-scalar-is-refused", "an inner loss of shape (1,) is taken;"),
    ("shrugs", "inner-loss-without-gradient-is-refused", "a detached inner loss is taken;"),
    ("forgets-momentum", "descent-is-followed-or-refused", "on mlp: with momentum, the adapted p"),
    ("clips", "stack-of-problems-is-a-problem", "something depends on both problems, as a norm"),
    ("always-due", "calibration-is-sound", "it is due still, right after calibrate()"),
    ("small-models-only", "tasks-of-the-harness-work", "MemoryError: no room for 3.weight, at no"),
]

GOOD_FILE = '''
from dataclasses import dataclass, replace

from estimators import Estimator, create, register

@register("halved")
@dataclass(frozen=True)
class Halved(Estimator):
    """A fraction of FOMAML."""

    factor: float = 0.5

    def estimate(self, problem, params):
        right = create("fomaml")(problem, params)
        gradient = {name: self.factor * value for name, value in right.gradient.items()}
        return replace(right, gradient=gradient)
'''
BAD_FILE = GOOD_FILE.replace(
    "        right =",
    '        assert problem.steps, "nothing to do"\n        right =',
).replace("gradient=gradient", "gradient=gradient, hvps=-1")


@pytest.fixture(scope="module", autouse=True)
def plugins() -> Iterator[None]:
    """Registers the broken estimators in this process, for this file alone."""
    before = dict(ESTIMATORS._factories)
    load_plugins(PLUGINS)
    yield
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(before)
    for name in PLUGINS:
        del sys.modules[name]


@pytest.mark.parametrize(("spec", "check", "words"), BROKEN)
def test_broken_rule_is_found(spec: str, check: str, words: str) -> None:
    finding = examine(Subject(spec), CHECKS[check])
    assert finding.verdict is Verdict.FAILED
    assert words in finding.reason


def test_every_check_can_fail() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_one_broken_rule_fails_one_check() -> None:
    for spec in ("honest", "rolls-dice"):
        failed = [c for c in CHECKS if examine(Subject(spec), CHECKS[c]).verdict is Verdict.FAILED]
        assert failed == [check for name, check, _ in BROKEN if name == spec]


def test_reason_names_the_last_line_of_the_estimator() -> None:
    reason = examine(Subject("raises-quietly"), CHECKS["result-is-well-formed"]).reason
    assert re.search(
        r', at nonconforming\.py:\d+: raise KeyError\("no such\\nparameter"\)$', reason
    )
    assert "\n" not in reason


def test_only_the_first_check_tells_of_an_estimator_that_never_works() -> None:
    subject = Subject("raises-quietly")
    findings = [examine(subject, check) for name, check in CHECKS.items() if name[:5] != "tasks"]
    failed = [finding.check for finding in findings if finding.verdict is Verdict.FAILED]
    assert failed == ["result-is-well-formed"]


def test_refused_problems_are_not_held_against_an_estimator() -> None:
    subject = Subject("imaml")  # the step sizes of all small cases are too large for its lambda
    findings = [examine(subject, check) for check in CHECKS.values()]
    assert not [finding for finding in findings if finding.verdict is Verdict.FAILED]
    scores = {name: score(subject, name) for name in scored_on(subject)}
    assert scores["sinusoid/mlp-40-40"].error is not None
    assert scores["mlp"].error is None
    assert "it refuses: imaml: its inner loop diverges" in scores["mlp"].reason


@pytest.mark.parametrize(
    ("spec", "depths"),
    [
        ("fomaml", (1, 3)),
        ("binom(order=2)", (3,)),
        ("binom(order=7)", (7,)),
        ("mixed(weights=(1, 1))", (2,)),
        ("mixed(weights=(1,))", (1,)),
        ("fomaml(compiled=True)", (3,)),
    ],
)
def test_depths_are_those_that_suit_the_estimator(spec: str, depths: tuple[int, ...]) -> None:
    assert Subject(spec).depths == depths


def test_scores_tell_exact_from_biased() -> None:
    worst = {
        spec: max(score(Subject(spec), name).error or 0.0 for name in SYNTHETIC)
        for spec in ("maml", "fomaml", "mixed")
    }
    assert worst["maml"] < 1e-12
    assert worst["fomaml"] > 0.1
    assert worst["mixed"] > 0.1
    assert max(score(Subject("mixed"), name).own_error or 0.0 for name in SYNTHETIC) < 1e-12
    exact = score(Subject("maml"), "mlp")
    assert exact.own_error is None
    assert 1e-9 < (exact.single_error or 0.0) < 1e-4


@pytest.mark.parametrize("name", [*SYNTHETIC, *TASKS])
def test_cases_come_in_draws_and_precisions(name: str) -> None:
    one, other, rough = case(name), case(name, draw=1), case(name, torch.float32)
    assert {k: v.shape for k, v in one.params.items()} == {
        k: v.shape for k, v in other.params.items()
    }
    losses = [each.inner_loss(each.params).double() for each in (one, other, rough)]
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "limit", "reason"),
    [
        ("segfaults", 60, "the worker process ended by SIGSEGV"),
        ("quits", 60, "the worker process ended by exit code 3"),
        ("sleeps", 2, "not done after 2 s"),
    ],
)
def test_violent_end_takes_nobody_down(spec: str, limit: float, reason: str) -> None:
    suite = Suite(spec, PLUGINS, time_limit=limit)
    first, *others = suite.run()
    assert isinstance(first, Finding)
    assert first.verdict is Verdict.FAILED
    assert first.reason.startswith(reason)
    assert len(others) + 1 == len(suite.steps)
    for end in others:
        verdict = end.verdict if isinstance(end, Finding) else Verdict.NOT_APPLICABLE
        assert verdict is Verdict.NOT_APPLICABLE
        assert end.reason == "the first check did not come to its end"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("made-of-nothing", "made-of-nothing makes a NoneType; its class must be a subclass of"),
        ("cannot-be-made", "cannot-be-made cannot be created (KeyError: 'anything')"),
        ("has-no-estimate", "has-no-estimate cannot be created (TypeError: Can't instantiate"),
    ],
)
def test_what_is_no_estimator_is_refused(spec: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        Suite(spec)
    assert message in str(refused.value)


def check(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(COMMAND), "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_good_estimator_of_a_stranger_passes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD_FILE, encoding="utf-8")
    done = check(tmp_path, "halved(factor=0.25)", "--import", "mine.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "✗" not in done.stdout
    assert "✓ The same call gives the same bits" in done.stdout
    assert "– If calibrated: it is due no longer" in done.stdout
    *_, closing = done.stdout.splitlines()
    assert closing.startswith("halved(factor=0.25) conforms: 21 passed, 4 not applicable. Biased: ")
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def test_bad_estimator_of_a_stranger_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BAD_FILE, encoding="utf-8")
    done = check(tmp_path, "halved", "--import", "mine.py")
    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ A call returns a MetaGradient" in done.stdout
    assert "everywhere: serial_depth=0 and hvps=-1; the products that wait" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("halved does not conform: ")


def test_slip_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD_FILE, encoding="utf-8")
    done = check(tmp_path, "halvd", "--import", "mine.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "metagrad: unknown estimator 'halvd'; did you mean halved?\n"
