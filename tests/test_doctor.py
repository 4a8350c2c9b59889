"""Causes of unsteady timings: from invented environments, and on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_regressions.file_regression import FileRegressionFixture

from harness.commands.doctor import doctor
from harness.commands.options import console
from harness.environment.doctor import findings
from harness.environment.steadiness import Steadiness, steadiness
from tests.support.invocation import invoke

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
FAULTS: tuple[dict[str, Any], ...] = (
    {"commit": ""},
    {"changes": "0123456789ab"},
    {"torch": {"debug": True}},
    {"torch": {"kind": "Debug"}},
    {"threading": {"within_an_operation": 2}, "cpu": {"virtual": True}},
    {"threading": {"within_an_operation": 16}},
    {"threading": {"within_an_operation": 2}, "cpu": {"usable": 1}},
    {"cpu": {"governor": "powersave"}},
    {"cpu": {"boost": True}},
    {"cpu": {"boost": True, "driver": "intel_pstate"}},
    {"cpu": {"smt": True}},
    {"moment": {"overheated": 3}},
    {"moment": {"on_battery": True}},
    {"moment": {"load": [2.5, 0.0, 0.0]}},
    {"limits": {"processors": 1.5}, "moment": {"throttled": 7}},
    {"moment": {"memory_free": 2**30}},
    {"moment": {"swap_used": 2**29}},
    {"moment": {"disk_free": 2**25}},
    {"gpus": [{"index": "1", "name": "H200", "slowed": ["heat", "power limit"]}]},
    {"gpus": [{"index": "0", "name": "H200", "busy": 98}]},
)
EVEN = (1.0,) * 30
UNSTEADY = (
    Steadiness((1.0, 1.3) * 15),
    Steadiness(EVEN, waited=0.4),
    Steadiness((1.0,) * 24 + (1.3,) * 7),
    Steadiness((1.25,) * 7 + (1.0,) * 24),
    Steadiness(EVEN, stolen=0.1),
    Steadiness(EVEN, throttled=3),
    Steadiness(EVEN, overheated=2),
)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the quiet environment with some fields changed, nested ones one by one."""
    return QUIET | {
        name: QUIET[name] | value if isinstance(value, dict) else value
        for name, value in changes.items()
    }


def test_each_fault_is_found(file_regression: FileRegressionFixture) -> None:
    lines = []
    for cause, environment, steady in (
        *((fault, changed(fault), Steadiness(EVEN)) for fault in FAULTS),
        *((steady, QUIET, steady) for steady in UNSTEADY),
    ):
        found = findings(environment, steady)
        assert len(found) == 1, cause
        lines.append(f"{found[0].what}: {found[0].why}. {found[0].remedy}")
    file_regression.check("\n".join(lines) + "\n", extension=".txt")


def test_quiet_and_unknown_is_no_fault() -> None:
    assert findings(QUIET, Steadiness(EVEN)) == []
    for seconds, ratio in (((0.5,), 1.0), ((1.0,) * 3 + (2.0,) * 3 + (3.0,) * 3, 3.0)):
        steady = Steadiness(seconds)
        assert steady.spread == steady.drift == pytest.approx(ratio)
    older = {"commit": "c" * 40, "changes": "", "threads": "1", "packages": {}, "devices": []}
    assert findings(older) == []


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
def test_other_work_is_found() -> None:
    steady = steadiness()
    assert steady.waited > 0.1
    assert findings(QUIET, steady)


def test_the_command_prints_all_within_a_narrow_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no checkout, which is always a finding
    monkeypatch.delenv("ASV_COMMIT", raising=False)
    monkeypatch.setattr(console, "width", 80)
    code, out, _ = invoke(doctor)
    assert code == 1
    lines = out.splitlines()
    for title in ("code", "machine", "processor", "now", "torch", "threads"):
        assert title in (line.strip() for line in lines), title
    for word in ("fingerprint", "OMP_NUM_THREADS", "- No commit is known: "):
        assert word in out, word
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    code, out, _ = invoke(doctor, "--json", "--store", str(tmp_path / "out"))
    known = json.loads(out)
    assert (code, known["commit"]) == (0, "")
    assert known["fingerprint"]
    assert list(tmp_path.iterdir()) == []
