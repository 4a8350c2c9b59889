"""The command `metagrad`: what it prints, and how it answers slips."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from estimators.base.registry import ESTIMATORS
from harness.cli import main
from harness.environment.devices import missing_device
from harness.matrix.metrics import METRICS
from harness.matrix.plan import presets
from harness.models import MODELS
from harness.store.table import load_sound
from harness.tasks import TASKS

COMMAND = Path(sys.executable).with_name("metagrad")
SINUSOID = ["--task", "sinusoid", "--model", "mlp-40-40"]
SMALL = ["run", "quick", *SINUSOID, "--depth", "1", "--tasks", "1"]
Call = Callable[..., tuple[int, str, str]]

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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; what a plug-in registers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METAGRAD_STORE", raising=False)
    factories, modules = dict(ESTIMATORS._factories), set(sys.modules)
    yield tmp_path
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(factories)
    for name in set(sys.modules) - modules:
        if (file := getattr(sys.modules[name], "__file__", None)) and str(tmp_path) in file:
            del sys.modules[name]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line in this process; returns exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metagrad", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None), *capsys.readouterr())

    return call


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts  # Python's own, unless it is told not to
    }


def prepare(folder: Path) -> None:
    """What the slips below stumble over."""
    (folder / "a-file").write_text("text", encoding="utf-8")
    (folder / "broken.py").write_text("register(", encoding="utf-8")
    (folder / "raises.py").write_text("raise KeyError('inside')", encoding="utf-8")
    (folder / "broken" / "runs").mkdir(parents=True)
    (folder / "broken" / "runs" / "x.jsonl").write_text('{"event": "start"\n', encoding="utf-8")
    (folder / "empty").mkdir()


SLIPS = [
    (["run", "quik"], "unknown preset 'quik'; did you mean quick?"),
    ([*SMALL, "--estimator", "fomalm"], "unknown estimator 'fomalm'; did you mean fomaml"),
    ([*SMALL, "--estimator", "binom"], "binom: option 'order' is missing"),
    ([*SMALL, "--estimator", "binom(ordr=1)"], "unknown option 'ordr'; did you mean order?"),
    ([*SMALL, "--estimator", "binom(order=x)"], "cannot read 'binom(order=x)'"),
    ([*SMALL, "--estimator", "binom(order=2)"], "order=2 is outside 0..1 (the depth is 1)"),
    ([*SMALL, "--estimator", "truncated(order=-1)"], "order=-1 is outside 0..K"),
    (["run", "--task", "sinus", "--model", "linear"], "unknown task 'sinus'; did you mean sinus"),
    (["run", "--task", "sinusoid(shots=0)", "--model", "linear"], "shots=0 and queries=10 must"),
    (["run", "--task", "sinusoid", "--model", "mpl"], "unknown model 'mpl'"),
    (["run", "--task", "sinusoid", "--model", "conv4-16"], "conv4-16 does not fit task sinusoid"),
    (["run", "--task", "sinusoid"], "--task and --model go together"),
    ([*SMALL, "--device", "tpu"], "unknown device 'tpu'; write cpu, cuda or cuda:1"),
    ([*SMALL, "--dtype", "half"], "unknown dtype 'half'; there is float32, float64"),
    ([*SMALL, "--step-size", "-0.1"], "step size -0.1 must be positive"),
    ([*SMALL, "--step-size", "0"], "step size 0.0 must be positive"),
    ([*SMALL, "--step-size", "nan"], "step size nan must be positive"),
    ([*SMALL, "--depth", "-1"], "depth -1 must be 0 or more"),
    ([*SMALL, "--seed", "-1"], "seed -1 must be 0 or more"),
    ([*SMALL, "--tasks", "0"], "tasks 0 must be 1 or more"),
    ([*SMALL, "--store", "a-file"], "cannot write to a-file: Not a directory"),
    ([*SMALL, "--store", "a-file/below"], "cannot write to a-file/below: Not a directory"),
    ([*SMALL, "--import", "nowhere.py"], "--import nowhere.py: cannot be imported"),
    ([*SMALL, "--import", "no_such_module"], "--import no_such_module: cannot be imported"),
    ([*SMALL, "--import", "broken.py"], "--import broken.py: cannot be imported (SyntaxError"),
    ([*SMALL, "--import", "raises.py"], "cannot be imported (KeyError: 'inside')"),
    (["list", "--import", "nowhere.py"], "--import nowhere.py: cannot be imported"),
    (["summary"], "no results in results; `make bench` or `metagrad run quick` makes some"),
    (["summary", "--store", "empty"], "no results in empty"),
    (["summary", "--store", "a-file"], "cannot read a-file/runs: Not a directory"),
    (["summary", "--store", "broken"], "broken/runs/x.jsonl: "),
    (["check", "fomalm"], "unknown estimator 'fomalm'; did you mean fomaml"),
    (["check", "binom"], "binom: option 'order' is missing"),
    (["check", "binom(order=x)"], "cannot read 'binom(order=x)'"),
    (["check", "fomaml", "--time-limit", "0"], "--time-limit 0 must be positive"),
    (["check", "fomaml", "--import", "raises.py"], "cannot be imported (KeyError: 'inside')"),
    (["bench"], "no asv.conf.json here; run this in the folder of the checkout"),
]


def check_slip(folder: Path, outcome: tuple[int, str, str], before: dict[str, str]) -> str:
    code, out, err = outcome
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert fingerprint(folder) == before
    return line


@pytest.mark.parametrize(("arguments", "message"), SLIPS, ids=lambda value: str(value)[-40:])
def test_slips_are_told_in_one_line(
    folder: Path, call: Call, arguments: list[str], message: str
) -> None:
    prepare(folder)
    before = fingerprint(folder)
    line = check_slip(folder, call(*arguments), before)
    assert line.startswith("metagrad: ")
    assert message in line


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_absent_device_is_told(folder: Path, call: Call, device: str) -> None:
    named = ["--device", device, "--estimator", "fomaml"]
    line = check_slip(folder, call(*SMALL, *named), {})
    assert "nothing to measure: cuda:" in line
    assert str(missing_device(device if ":" in device else "cuda:0")) in line


@without_gpu
def test_absent_device_is_told_before_orders_that_do_not_fit(folder: Path, call: Call) -> None:
    line = check_slip(folder, call(*SMALL, "--device", "cuda"), {})
    assert f"nothing to measure: {missing_device('cuda:0')}" in line


@pytest.mark.parametrize("name", ["estimators.py", "json.py"])
def test_plugin_may_be_called_as_some_module_is(folder: Path, call: Call, name: str) -> None:
    (folder / name).write_text(THIRD_PARTY, encoding="utf-8")
    _, out, _ = call("list", "--import", name)
    assert "halved" in out.split()


def test_broken_file_of_another_run_does_not_spoil_the_table(folder: Path, call: Call) -> None:
    prepare(folder)
    code, out, _ = call(*SMALL, "--estimator", "fomaml", "--store", "broken")
    assert code == 0
    assert "sinusoid, mlp-40-40, K=1" in out


def test_changes_that_are_no_utf8_do_not_matter(folder: Path, call: Call) -> None:
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    (folder / "old.txt").write_bytes(b"caf\xe9\n")
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "old"]):
        subprocess.run(["git", *command], check=True)
    (folder / "old.txt").write_bytes(b"caf\xe9 au lait\n")
    assert call(*SMALL, "--estimator", "fomaml")[0] == 0


def test_slips_are_told_by_the_installed_command(folder: Path) -> None:
    command = [str(COMMAND), *SMALL, "--estimator", "fomalm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = check_slip(folder, (done.returncode, done.stdout, done.stderr), {})
    assert line.startswith("metagrad: unknown estimator 'fomalm'; did you mean fomaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run", "--depth", "deep"],
        ["run", "--samples", "2"],
        ["run", "--jobs", "0"],
        ["run", "--no-such-option"],
    ],
    ids=str,
)
def test_misuse_of_the_command_line_is_told(folder: Path, call: Call, arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert arguments[-1].strip("-") in err or arguments[-2] in err
    assert "Traceback" not in err
    assert fingerprint(folder) == {}


def test_list_names_everything(folder: Path, call: Call) -> None:
    (folder / "mine.py").write_text(THIRD_PARTY, encoding="utf-8")
    code, out, err = call("list", "--import", "mine.py")
    assert (code, err) == (0, "")
    words = set(out.split())
    names = {*ESTIMATORS.available(), *TASKS.available(), *MODELS.available(), *presets()}
    assert names | set(METRICS) <= words
    assert {"halved", "order:int", "factor:float=0.5"} <= {word.rstrip(",") for word in words}


def test_help_names_the_commands(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert {"run", "check", "list", "summary", "bench", "report"} <= set(out.split())


def test_a_run_ends_in_a_table_and_in_the_store(folder: Path) -> None:
    (folder / "mine.py").write_text(THIRD_PARTY, encoding="utf-8")
    estimators = ["fomaml", "binom(order=2)", "halved"]
    named = [word for estimator in estimators for word in ("--estimator", estimator)]
    run = ["run", "quick", *SINUSOID, "--depth", "2", "--tasks", "2", *named]
    done = subprocess.run(
        [COMMAND, *run, "--import", "mine.py", "--store", "deep/er/store"],
        capture_output=True,
        text=True,
        check=False,
    )
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
    folder: Path, call: Call
) -> None:
    named = ["--estimator", "binom(order=4)", "--estimator", "truncated(order=4)"]
    code, out, err = call("run", "quick", *SINUSOID, "--depth", "5", *named)
    assert (code, err) == (0, "")
    table = load_sound(folder / "results")
    bias = table[table["metric"] == "bias"].set_index("estimator")
    assert {len(samples) for samples in bias["samples"]} == {8}
    ratio = bias["value"]["truncated(order=4)"] / bias["value"]["binom(order=4)"]
    assert ratio >= 1000
    again = call("summary")
    assert again[0] == 0
    assert again[1].strip() in out  # the table of the newest run, without the progress


def test_store_may_be_named_by_the_environment(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAGRAD_STORE", str(folder / "mine"))
    code, _, _ = call(*SMALL, "--estimator", "fomaml")
    assert code == 0
    (journal,) = (folder / "mine" / "runs").iterdir()
    assert json.loads(journal.read_text(encoding="utf-8").splitlines()[-1])["event"] == "end"
