"""The conformance suite finds broken rules, and `metagrad check` reports them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from estimators import OptionError
from estimators.base.registry import ESTIMATORS
from harness.conformance.cases import SYNTHETIC, TASKS, case
from harness.conformance.check import CHECKS
from harness.conformance.subject import Subject
from harness.conformance.suite import Finding, Suite, Verdict, examine, score, scored_on
from harness.support.plugins import load_plugins

COMMAND = Path(sys.executable).with_name("metagrad")
PLUGINS = ("tests.support.nonconforming", "tests.support.faulty")

# A broken rule, the check that finds it, and a fact that its reason names.
BROKEN = [
    ("returns-a-dict", "result-is-well-formed", "dict"),
    ("forgets-a-key", "result-is-well-formed", "keys"),
    ("flattens", "result-is-well-formed", "gradient['first'] is of shape (8,)"),
    ("always-double", "result-is-well-formed", "float64"),
    ("counts-with-tensors", "result-is-well-formed", "hvps"),
    ("counts-backwards", "result-is-well-formed", "hvps=-1"),
    ("raises-quietly", "result-is-well-formed", "KeyError: 'no such\\nparameter', at nonconform"),
    ("stumbles-on-scalars", "result-is-well-formed", "on uneven: TypeError"),
    ("fits-nothing", "result-is-well-formed", "1 to 32"),
    ("refuses-everything", "result-is-well-formed", "not today; tomorrow"),
    ("not-finite", "estimate-is-finite", "on uneven: gradient['idle']"),
    ("loss-before", "outer-loss-is-that-of-the-adapted", "12.5454"),
    ("one-step-short", "adapted-parameters-are-those-of-gradient-descent", "1.7e-01"),
    ("imprecise", "single-precision-follows-double", "1e-3"),
    ("decays-weights", "unused-parameter-has-no-gradient", "0.87"),
    ("hides-products", "products-are-reported", "hvps=0"),
    ("understates-its-cost", "cost-is-what-is-taken", "cost(4).hvps is 3"),
    ("understates-its-mean-cost", "cost-is-what-is-taken", "cost(1).hvps is 0.1"),
    ("own-gradient-of-nothing", "own-exact-gradient-is-well-formed", "keys"),
    ("changes-parameters", "parameters-are-left-alone", "parameter 'w'"),
    ("changes-grad", "parameters-are-left-alone", ".grad of parameter 'w'"),
    ("needs-gradients-on", "grad-mode-does-not-matter", "torch.no_grad()"),
    ("leaves-gradients-off", "grad-mode-does-not-matter", "off after"),
    ("returns-a-graph", "nothing-returned-is-part-of-a-graph", "outer_loss"),
    ("returns-its-input", "result-outlives-a-step-on-the-parameters", "gradient['w']"),
    ("rolls-dice", "same-call-gives-the-same-bits", "gradient['w']"),
    ("hoards", "no-tensor-is-left-behind", "9 behind, of shape (1, 4), (4, 2)"),
    ("goes-in-circles", "no-tensor-is-left-behind", "cycles"),
    ("follows-autocast", "autocast-does-not-matter", "gradient['first'] is bfloat16"),
    ("mutable", "estimator-is-a-value", "not frozen"),
    ("no-dataclass", "estimator-is-a-value", "no dataclass"),
    ("never-equal", "estimator-is-a-value", "equal"),
    ("unhashable", "estimator-is-a-value", "'list'"),
    ("unreadable-option", "specification-is-canonical", "unreadable-option(limit=nan)"),
    ("fails-without-steps", "unsupported-reason-is-true", "unsupported_reason(0) is None"),
    ("refuses-in-silence", "unsupported-reason-is-true", "unsupported_reason(5) is None"),
    ("ignores-its-reason", "unsupported-reason-is-true", "'too deep'"),
    ("reason-is-a-flag", "unsupported-reason-is-true", "unsupported_reason(5) is True"),
    ("sums-vectors", "loss-that-is-no-scalar-is-refused", "inner loss of shape (1,)"),
    ("shrugs", "inner-loss-without-gradient-is-refused", "detached inner loss"),
    ("forgets-momentum", "descent-is-followed-or-refused", "on mlp: with momentum"),
    ("clips", "stack-of-problems-is-a-problem", "norm"),
    ("draws-elsewhere", "draws-come-from-the-generator", "default generator"),
    ("never-draws", "draws-come-from-the-generator", "200 generators"),
    ("claims-to-be-unbiased", "mean-is-exact-if-unbiased", "on mlp"),
    ("small-models-only", "tasks-of-the-harness-work", "no room for 3.weight"),
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
    "        right =", "        __import__('os')._exit(3)\n        right ="
)


@pytest.fixture(scope="module", autouse=True)
def plugins() -> Iterator[None]:
    """Register the broken estimators in this process, for this file only."""
    before = dict(ESTIMATORS._factories)
    load_plugins(PLUGINS)
    yield
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(before)
    for name in PLUGINS:
        del sys.modules[name]


@pytest.mark.parametrize(("spec", "check", "fact"), BROKEN)
def test_broken_rule_fails_its_check(spec: str, check: str, fact: str) -> None:
    finding = examine(Subject(spec), CHECKS[check])
    assert finding.verdict is Verdict.FAILED
    assert fact in finding.reason
    assert "\n" not in finding.reason
    if spec == "raises-quietly":  # the last line of the estimator's own code
        assert re.search(r'nonconforming\.py:\d+: raise KeyError\("no such', finding.reason)


def test_every_check_can_fail_and_one_broken_rule_fails_only_its_check() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)
    for spec in ("honest", "rolls-dice", "raises-quietly"):
        subject = Subject(spec)
        failed = [
            name
            for name, check in CHECKS.items()
            if name != "tasks-of-the-harness-work" or spec != "raises-quietly"
            if examine(subject, check).verdict is Verdict.FAILED
        ]
        assert failed == [check for name, check, _ in BROKEN if name == spec]


def test_refused_problems_are_not_held_against_an_estimator() -> None:
    subject = Subject("imaml")  # the step sizes of all small cases are too large for its lambda
    findings = [examine(subject, check) for check in CHECKS.values()]
    assert not [finding for finding in findings if finding.verdict is Verdict.FAILED]
    scores = {name: score(subject, name) for name in scored_on(subject)}
    assert scores["sinusoid/mlp-40-40"].error is not None
    assert scores["mlp"].error is None
    assert "it refuses: imaml: its inner loop diverges" in scores["mlp"].reason


def test_depths_are_those_that_suit_the_estimator() -> None:
    for spec, depths in {
        "fomaml": (1, 3),
        "binom(order=2)": (3,),
        "binom(order=7)": (7,),
        "mixed(weights=(1, 1))": (2,),
        "mixed(weights=(1,))": (1,),
        "fomaml(compiled=True)": (3,),
    }.items():
        assert Subject(spec).depths == depths, spec


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


def test_cases_come_in_draws_and_precisions() -> None:
    for name in (*SYNTHETIC, *TASKS):
        three = case(name), case(name, draw=1), case(name, torch.float32)
        shapes = [{k: v.shape for k, v in each.params.items()} for each in three]
        assert shapes[0] == shapes[1] == shapes[2], name
        one, other, rough = (each.inner_loss(each.params).double() for each in three)
        assert one != other, name
        torch.testing.assert_close(rough, one, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("spec", "limit", "reason"),
    [
        ("segfaults", 60, "SIGSEGV"),
        pytest.param("spins", 2, "2 s", marks=pytest.mark.slow),
    ],
)
def test_violent_end_takes_nobody_down(spec: str, limit: float, reason: str) -> None:
    suite = Suite(spec, PLUGINS, time_limit=limit)
    first, *others = suite.run()
    assert isinstance(first, Finding)
    assert first.verdict is Verdict.FAILED
    assert reason in first.reason
    assert len(others) + 1 == len(suite.steps)
    for end in others:
        verdict = end.verdict if isinstance(end, Finding) else Verdict.NOT_APPLICABLE
        assert verdict is Verdict.NOT_APPLICABLE
        assert "first check" in end.reason


def test_other_things_than_estimators_are_refused() -> None:
    for spec, fact in {
        "made-of-nothing": "NoneType",
        "cannot-be-made": "KeyError: 'anything'",
        "has-no-estimate": "TypeError",
        "honst": "did you mean honest",
    }.items():
        with pytest.raises(OptionError, match=f"{spec}.*{fact}"):
            Suite(spec)


def check(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(COMMAND), "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_command_on_a_good_estimator_of_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD_FILE, encoding="utf-8")
    done = check(tmp_path, "halved(factor=0.25)", "--import", "mine.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout.count("✗"), done.stdout.count("✓"), done.stdout.count("–")) == (0, 21, 5)
    assert done.stdout.splitlines()[-1].startswith("halved(factor=0.25) conforms: 21 passed, 5 ")
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def test_command_on_a_bad_estimator(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BAD_FILE, encoding="utf-8")
    done = check(tmp_path, "halved", "--import", "mine.py")
    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ A call returns a MetaGradient" in done.stdout
    assert "exit code 3" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("halved does not conform: ")
