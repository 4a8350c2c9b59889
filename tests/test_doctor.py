"""What makes timings bad: from crafted environments, and on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.commands.doctor import doctor
from harness.environment.doctor import findings
from harness.environment.steadiness import Steadiness, steadiness

QUIET: dict[str, Any] = {
    "commit": "c" * 40,
    "changes": "",
    "cores": 8,
    "memory": 2**34,
    "cpu": {"logical": 8, "usable": 8, "governor": "performance", "boost": False, "smt": False},
    "limits": {},
    "gpus": [{"index": "0", "name": "H200", "busy": 0, "slowed": []}],
    "torch": {"debug": False, "kind": "Release"},
    "threading": {"within_an_operation": 1},
    "moment": {
        **{"load": [0.5, 0.5, 0.5], "memory_free": 2**33, "swap": 2**30, "swap_used": 0},
        **{"disk_free": 2**35, "on_battery": False, "throttled": 0, "overheated": 0},
    },
}
EVEN = (1.0,) * 30


def changed(**changes: Any) -> dict[str, Any]:
    """Returns the quiet environment with some fields changed, nested ones one by one."""
    return QUIET | {
        name: QUIET[name] | value if isinstance(value, dict) else value
        for name, value in changes.items()
    }


def test_quiet_machine_has_no_findings() -> None:
    assert findings(QUIET, Steadiness(EVEN)) == []


def test_unknown_is_no_finding() -> None:
    older = {"commit": "c" * 40, "changes": "", "threads": "1", "packages": {}, "devices": []}
    assert findings(older) == []


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"commit": ""}, "no commit", "commit"),
        ({"changes": "0123456789ab"}, "uncommitted changes", "commit"),
        ({"torch": {"debug": True}}, "debug build", "release"),
        ({"torch": {"kind": "Debug"}}, "debug build", "release"),
        (
            {"threading": {"within_an_operation": 2}, "cpu": {"virtual": True}},
            "2 threads on virtual processors",
            "OMP_NUM_THREADS=1",
        ),
        ({"threading": {"within_an_operation": 16}}, "16 threads for 8 cores", "OMP_NUM_THREADS=8"),
        (
            {"threading": {"within_an_operation": 2}, "cpu": {"usable": 1}},
            "2 threads for 1 cores",
            "OMP_NUM_THREADS=1",
        ),
        ({"cpu": {"governor": "powersave"}}, "governor is powersave", "performance"),
        ({"cpu": {"boost": True}}, "boost is on", "echo 0 | sudo tee"),
        ({"cpu": {"boost": True, "driver": "intel_pstate"}}, "boost is on", "echo 1 | sudo tee"),
        ({"cpu": {"smt": True}}, "SMT", "SMT"),
        ({"moment": {"overheated": 3}}, "3 times", "cool"),
        ({"moment": {"on_battery": True}}, "battery", "plug"),
        ({"moment": {"load": [2.5, 0.0, 0.0]}}, "load is 2.5 on 8", "wait"),
        (
            {"limits": {"processors": 1.5}, "moment": {"throttled": 7}},
            "1.5 of 8 processors, and stopped this 7 times",
            "quota",
        ),
        ({"moment": {"memory_free": 2**30}}, "1.0 of 16.0 GiB", "end"),
        ({"moment": {"swap_used": 2**29}}, "0.5 GiB are swapped", "swapoff"),
        ({"moment": {"disk_free": 2**25}}, "32 MiB", "--store"),
        (
            {"gpus": [{"index": "1", "name": "H200", "slowed": ["heat", "power limit"]}]},
            "GPU 1 (H200) is slowed down by heat and power limit",
            "cool",
        ),
        ({"gpus": [{"index": "0", "name": "H200", "busy": 98}]}, "busy, 98 %", "CUDA_VISIBLE"),
    ],
)
def test_each_fault_is_found_alone(changes: dict[str, Any], what: str, remedy: str) -> None:
    [finding] = findings(changed(**changes), Steadiness(EVEN))
    assert what in finding.what
    assert remedy in finding.remedy
    assert finding.why
    assert "\n" not in finding.what + finding.why + finding.remedy


@pytest.mark.parametrize(
    ("steady", "what"),
    [
        (Steadiness((1.0, 1.3) * 15), "1.30 times apart"),
        (Steadiness(EVEN, waited=0.4), "wait 40 %"),
        (Steadiness((1.0,) * 24 + (1.3,) * 7), "1.30 times as long"),
        (Steadiness(EVEN, stolen=0.1), "10 % of processor time"),
        (Steadiness(EVEN, throttled=3), "CPU quota 3 times"),
        (Steadiness(EVEN, overheated=2), "heat 2 times"),
    ],
)
def test_unsteady_work_is_found(steady: Steadiness, what: str) -> None:
    found = findings(QUIET, steady)
    assert [what in finding.what for finding in found] == [True]


def test_work_that_gets_quicker_drifts_too() -> None:
    steady = Steadiness((1.3,) * 7 + (1.0,) * 14)
    found = [finding.what for finding in findings(QUIET, steady)]
    assert "the test work took 0.77 times as long at its end" in found


def test_spread_and_drift() -> None:
    steady = Steadiness((1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0))
    assert steady.spread == pytest.approx(3.0)
    assert steady.drift == pytest.approx(3.0)
    assert Steadiness((0.5,)).spread == Steadiness((0.5,)).drift == pytest.approx(1.0)


@pytest.fixture
def rival() -> Iterator[None]:
    """One processor for this process, and a busy process on the same one."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processors cannot be chosen on this system")
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, usable)


@pytest.mark.usefixtures("rival")
def test_work_beside_is_found() -> None:
    steady = steadiness()
    assert steady.waited > 0.1
    assert any("had to wait" in finding.what for finding in findings(QUIET, steady))


@pytest.fixture
def dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that is no checkout, so that there is always a finding."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASV_COMMIT", raising=False)
    monkeypatch.delenv("METAGRAD_STORE", raising=False)
    return tmp_path


def run(*arguments: str) -> int:
    """Runs the command as `metagrad` does."""
    app = typer.Typer()
    app.command()(doctor)
    status = app(list(arguments), standalone_mode=False)
    assert isinstance(status, int)
    return status


def test_doctor_tells_all_and_what_is_bad(dirty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 1
    out = capsys.readouterr().out
    for title in ("code", "machine", "processor", "memory and disk", "torch", "threads"):
        assert f"\n{title} " in f"\n{out}", title
    assert "fingerprint" in out
    assert "OMP_NUM_THREADS" in out
    assert "- No commit is known: " in out
    assert "Nothing found" not in out
    assert list(dirty.iterdir()) == []


def test_json_is_the_environment_alone(dirty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--store", str(dirty / "out")) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["commit"] == ""
    assert known["fingerprint"]


def test_narrow_screen_keeps_every_word(dirty: Path) -> None:
    script = (
        "import typer\n"
        "from harness.commands.doctor import doctor\n"
        "app = typer.Typer(); app.command()(doctor); app([], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=dirty,
        env=os.environ | {"COLUMNS": "80", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    assert "figures cannot be told to a state of the code" in " ".join(done.stdout.split())
