"""The command `metagrad`: its output, and its answers to mistakes."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from estimators.base.registry import ESTIMATORS
from harness.cli import main
from harness.environment.gpus import missing_device
from harness.matrix.metrics import METRICS
from harness.models import MODELS
from harness.store.table import load_sound
from harness.support.presets import about
from harness.tasks import TASKS
from tests.support.repositories import git

COMMAND = Path(sys.executable).with_name("metagrad")
SINUSOID = "--task sinusoid --model mlp-40-40"
SMALL = f"run quick {SINUSOID} --depth 1 --tasks 1"
Call = Callable[[str], tuple[int, str, str]]

THIRD_PARTY = '''
from dataclasses import dataclass

from estimators import Estimator, create, register

@register("halved")
@dataclass(frozen=True)
class Halved(Estimator):
    """FOMAML, with an option."""

    factor: float = 0.5

    def estimate(self, problem, params):
        return create("fomaml").estimate(problem, params)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METAGRAD_STORE", raising=False)
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; return exit code, stdout and stderr."""

    def call(arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metagrad", *shlex.split(arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None), *capsys.readouterr())

    return call


def contents(folder: Path) -> dict[Path, bytes]:
    """Return all that a folder holds, except Python's own caches."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {path: path.read_bytes() if path.is_file() else b"" for path in paths}


def write_broken_files(folder: Path) -> None:
    (folder / "a-file").write_text("text", encoding="utf-8")
    (folder / "broken.py").write_text("register(", encoding="utf-8")
    (folder / "raises.py").write_text("raise KeyError('inside')", encoding="utf-8")
    (folder / "broken" / "runs").mkdir(parents=True)
    (folder / "broken" / "runs" / "x.jsonl").write_text('{"event": "start"\n', encoding="utf-8")
    (folder / "empty").mkdir()


WHOLE = ("nan", "1e400", "-1", "9" * 30, "9" * 5000)
REAL = ("nan", "-inf", "0", "1e-400")
COUNT, POSITIVE = (*WHOLE, "0"), (*REAL, "inf", "1e400")
TRAINING = f"train {SINUSOID} --estimator fomaml"
NUMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    SMALL: {
        **dict.fromkeys(("--depth", "--seed", "--trained", "--samples"), WHOLE),
        **{"--jobs": COUNT, "--step-size": POSITIVE},
        **dict.fromkeys(("--time-limit", "--memory-limit"), REAL),
    },
    f"run {SINUSOID} --depth 1": {"--tasks": COUNT},
    TRAINING: {
        **dict.fromkeys(("--steps", "--meta-batch", "--validate-every", "--test-tasks"), COUNT),
        **dict.fromkeys(("--depth", "--seed", "--test-depth", "--patience", "--bias-every"), WHOLE),
        **{"--validation-tasks": COUNT, "--jobs": COUNT},
        **dict.fromkeys(("--step-size", "--learning-rate"), POSITIVE),
    },
    "check fomaml": {"--time-limit": REAL},
    "reproduce fig2": {"--jobs": COUNT},
}
"""Numbers that options refuse."""

MISTAKES = [
    ("frobnicate", "frobnicate"),
    ("run --no-such-option", "--no-such-option"),
    ("run --depth deep", "--depth"),
    ("run --samples 2", "2"),
    ("run --jobs 0", "--jobs"),
    ("run --time-limit 0", "--time-limit 0"),
    ("run --memory-limit -1", "--memory-limit -1"),
    (f"{SMALL} --estimator fomalm", "fomaml"),
    (f"{SMALL} --estimator 'binom(ordr=1)'", "order"),
    (f"{SMALL} --estimator 'binom(order=x)'", "binom(order=x)"),
    ("run --task sinus --model linear", "sinusoid"),
    ("run --task sinusoid --model conv4-16", "conv4-16"),
    ("run --task sinusoid", "--model"),
    (f"{SMALL} --dtype half", "half"),
    (f"{SMALL} --step-size 0", "0.0"),
    (f"{SMALL} --store a-file", "a-file: it is no folder"),
    (f"{SMALL} --import nowhere.py", "nowhere.py"),
    (f"{SMALL} --import no_such_module", "no_such_module"),
    (f"{SMALL} --import broken.py", "SyntaxError"),
    (f"{SMALL} --import raises.py", "KeyError: 'inside'"),
    ("list --import nowhere.py", "nowhere.py"),
    ("summary", "results"),
    ("summary --store empty", "empty"),
    ("summary --store a-file", "a-file/runs: Not a directory"),
    ("summary --store broken", "broken/runs/x.jsonl"),
    ("check fomalm", "fomaml"),
    ("check binom", "'order'"),
    ("check fomaml --time-limit 0", "--time-limit 0"),
    ("bench", "asv.conf.json"),
    ("run --task quadratic --task sinusoid --model linear", "--task is given 2 times"),
    ("run --store empty --store=a-file", "--store is given 2 times"),
    ("export --format csv --format json", "--format is given 2 times"),
    ("report --out x --out y", "--out is given 2 times"),
    ("data check empty --frobnicate", "--frobnicate"),
    ("reproduce fig2 --store a-file", "a-file"),
    (f"{SMALL} --jobs 100000", "--jobs"),
    *(
        (f"{command} {option} {number}", option.removeprefix("--").replace("-", " "))
        for command, options in NUMBERS.items()
        for option, wrong in options.items()
        for number in wrong
    ),
]
"""Commands, and the part of the answer that says what is wrong with them."""
if not torch.cuda.is_available():
    MISTAKES += [
        (f"{SMALL} --device cuda:7 --estimator fomaml", str(missing_device("cuda:7"))),
        (f"{SMALL} --device cuda", str(missing_device("cuda:0"))),  # orders are above the depth
    ]


def test_mistakes_are_answered_in_one_line(folder: Path, call: Call) -> None:
    write_broken_files(folder)
    before = contents(folder)
    for arguments, fact in MISTAKES:
        code, out, err = call(arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert err.startswith("metagrad: "), arguments
        assert fact in err.replace("-", " ") or fact in err, arguments
        assert contents(folder) == before, arguments


def test_a_plugin_may_have_the_name_of_another_module(folder: Path, call: Call) -> None:
    for name in ("estimators.py", "json.py"):
        (folder / name).write_text(THIRD_PARTY, encoding="utf-8")
        _, out, _ = call(f"list --import {name}")
        assert "halved" in out.split()
        ESTIMATORS._factories.pop("halved")


def test_changes_in_other_encodings_do_not_matter(folder: Path, call: Call) -> None:
    (folder / "old.txt").write_bytes(b"caf\xe9\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "old"]):
        git(folder, *command)
    (folder / "old.txt").write_bytes(b"caf\xe9 au lait\n")
    code, out, _ = call("doctor --json")
    assert code == 0
    assert "commit" in json.loads(out)


def test_help_and_list_name_everything(folder: Path, call: Call) -> None:
    (folder / "mine.py").write_text(THIRD_PARTY, encoding="utf-8")
    code, out, err = call("list --import mine.py")
    assert (code, err) == (0, "")
    words = set(out.split())
    commands = {"run", "train", "check", "list", "summary", "bench", "report"}
    assert commands <= set(call("--help")[1].split())
    names = {*ESTIMATORS.available(), *TASKS.available(), *MODELS.available()}
    names |= about("harness.matrix").keys()
    assert names | set(METRICS) <= words
    assert {"halved", "order:int", "factor:float=0.5"} <= {word.rstrip(",") for word in words}


def test_a_run_ends_in_a_table_and_in_the_store(folder: Path) -> None:
    (folder / "mine.py").write_text(THIRD_PARTY, encoding="utf-8")
    named = "--estimator fomaml --estimator 'binom(order=2)' --estimator halved"
    run = f"run quick {SINUSOID} --depth 2 --tasks 2 {named} --import mine.py --store deep/er/store"
    done = subprocess.run([COMMAND, *shlex.split(run)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert "sinusoid, mlp-40-40, K=2, alpha=0.01, cpu, float32, seed 0" in done.stdout
    assert {"fomaml", "halved", "binom(order=2)"} <= set(rows)
    table = load_sound(folder / "deep" / "er" / "store")
    values = table.set_index(["estimator", "metric"])["value"]
    assert values["binom(order=2)", "bias"] < 1e-12  # its order is the depth
    assert values["halved", "bias"] == values["fomaml", "bias"]
    assert rows["fomaml"][1] == f"{values['fomaml', 'bias']:.2g}"
    assert rows["binom(order=2)"][-2:] == ["2", "2"]  # HVPs, of which two must wait
    assert set(table["outcome"]) == {"ok"}
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"mine.py", "deep"}


def test_bias_of_binom_is_a_thousand_times_below_that_of_truncation(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_broken_files(folder)  # a broken file of another run does not matter
    monkeypatch.setenv("METAGRAD_STORE", "broken")
    named = "--estimator 'binom(order=4)' --estimator 'truncated(order=4)' --samples 0"
    code, out, err = call(f"run quick {SINUSOID} --depth 5 {named}")
    assert (code, err) == (0, "")
    (folder / "broken" / "runs" / "x.jsonl").unlink()
    table = load_sound(folder / "broken")
    bias = table[table["metric"] == "bias"].set_index("estimator")
    assert {len(samples) for samples in bias["samples"]} == {8}
    ratio = bias["value"]["truncated(order=4)"] / bias["value"]["binom(order=4)"]
    assert ratio >= 1000
    code, again, _ = call("summary")
    assert code == 0
    assert again.strip() in out  # the table of the newest run, without the progress
