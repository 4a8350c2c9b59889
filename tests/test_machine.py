"""What a run says of the machine that it is made on: processor, limits, GPUs, fingerprint."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from harness.environment import environment, fingerprint
from harness.environment.cgroups import limits, throttled
from harness.environment.gpus import gpus, visible
from harness.environment.moment import moment
from harness.environment.processor import model, overheated, processor
from harness.environment.steadiness import steadiness
from tests.environment_files import ALWAYS, write

GPU = "0, GPU-11aa, NVIDIA H200, 580.159.03, 143771, 345, 1980, 0, 700.00, 0x0000000000000001\n"
HOT = "1, GPU-22bb, NVIDIA H200, 580.159.03, 143771, 1200, 1980, 98, [N/A], 0x0000000000000044\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program `nvidia-smi` first in the path, and lets torch be one that has CUDA."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return install


def answer(text: str, knows: str = "clocks_event_reasons") -> str:
    return f"case $1 in *{knows}*) printf '{text}' ;; *) exit 2 ;; esac"


def test_fingerprint_tells_machines_apart(tmp_path: Path) -> None:
    root = write(tmp_path, {"etc/machine-id": "1" * 32})
    here = fingerprint("EPYC", 2, 4, 23 * 2**30 + 1, [], root)
    assert here == fingerprint("EPYC", 2, 4, 24 * 2**30, [], root), "another kernel's share"
    others = [
        fingerprint("Xeon", 2, 4, 24 * 2**30, [], root),
        fingerprint("EPYC", 4, 4, 24 * 2**30, [], root),
        fingerprint("EPYC", 2, 4, 32 * 2**30, [], root),
        fingerprint("EPYC", 2, 4, 24 * 2**30, [{"name": "NVIDIA H200"}], root),
        fingerprint("EPYC", 2, 4, 24 * 2**30, [], tmp_path / "no identity"),
    ]
    assert len({here, *others}) == 6
    assert "1" * 12 not in here, "the identity itself is confidential"


def test_processor_of_a_workstation(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu vme\n\nx: y\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
            f"{cpu}/cpu0/cpufreq/scaling_min_freq": "800000\n",
            f"{cpu}/cpu0/cpufreq/scaling_max_freq": "4700000\n",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "2\n",
            f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "3\n",
            f"{cpu}/intel_pstate/no_turbo": "0\n",
            f"{cpu}/smt/active": "1\n",
        },
    )
    assert model(root) == "Some CPU"
    assert processor(root).items() >= {
        ("governor", "performance, powersave"),
        ("driver", "intel_pstate"),
        ("least_mhz", 800.0),
        ("most_mhz", 4700.0),
        ("boost", True),
        ("smt", True),
        ("virtual", False),
    }
    assert overheated(root) == 5
    assert moment(tmp_path, root)["overheated"] == 5


def test_processor_of_a_virtual_machine_and_of_none(tmp_path: Path) -> None:
    root = write(
        tmp_path / "vm",
        {
            "proc/cpuinfo": "model name\t: EPYC\nflags\t\t: fpu hypervisor\n",
            "sys/devices/system/cpu/cpufreq/boost": "0\n",
            "sys/devices/system/cpu/smt/active": "\n",
        },
    )
    assert processor(root).items() >= {("virtual", True), ("boost", False)}
    assert set(processor(tmp_path / "none")) <= {"logical", "usable"}
    assert overheated(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("groups", "files", "expected", "stops"),
    [
        ("0::/", {}, {}, None),
        (
            "0::/app/worker",
            {
                "app/worker/cpu.max": "max 100000",
                "app/cpu.max": "150000 100000",
                "app/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_usec 1",
                "app/worker/memory.max": "2147483648",
                "app/memory.max": "max",
            },
            {"processors": 1.5, "memory": 2**31},
            4,
        ),
        (
            "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.stat": "nr_throttled 7",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            {"processors": 0.5},
            7,
        ),
        (
            "5:cpu:/\n0::/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            {},
            None,
        ),
        (
            "0::/../outside",
            {"../outside/cpu.max": "1 2", "cpu.max": "4 2"},
            {"processors": 2},
            None,
        ),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path,
    groups: str,
    files: dict[str, str],
    expected: dict[str, float],
    stops: int | None,
) -> None:
    mounted = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    root = write(tmp_path, {"proc/self/cgroup": groups, "sys/fs/cgroup/x": ""} | mounted)
    assert limits(root) == expected
    assert throttled(root) == stops


@pytest.mark.parametrize("knows", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_gpus_are_what_the_driver_tells(driver: Callable[[str], None], knows: str) -> None:
    driver(answer(GPU + HOT, knows))
    idle, hot = gpus()
    assert idle == {
        "index": "0",
        "id": "GPU-11aa",
        "name": "NVIDIA H200",
        "driver": "580.159.03",
        "memory": 143771 * 2**20,
        "mhz": 345,
        "most_mhz": 1980,
        "busy": 0,
        "power_limit": 700,
        "slowed": [],
    }
    assert hot["slowed"] == ["heat", "power limit"]
    assert "power_limit" not in hot


@pytest.mark.parametrize("script", ["exit 9", "printf 'No devices were found\\n'", "printf '\\n'"])
def test_driver_without_gpus_is_none(driver: Callable[[str], None], script: str) -> None:
    driver(script)
    assert gpus() == []


def test_visible_gpus_are_chosen_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"index": str(i), "id": f"GPU-{i}{i}", "name": f"gpu {i}"} for i in range(3)]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for chosen, names in {
        "": [],
        "0,2": ["gpu 0", "gpu 2"],
        "2, 1": ["gpu 2", "gpu 1"],
        "GPU-1": ["gpu 1"],
        "1,-1,2": ["gpu 1"],
        "7": [],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible(found) == names, chosen
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(visible(found)) == 3
    monkeypatch.setattr(torch.version, "cuda", None)
    assert visible(found) == []


def test_cuda_is_not_initialised(driver: Callable[[str], None]) -> None:
    driver(answer(GPU))
    # A build without CUDA raises where CUDA would be initialised, one with CUDA says so.
    script = (
        "import torch; torch.version.cuda = '13.0'\n"
        "from harness.environment import environment\n"
        "from harness.environment.steadiness import steadiness\n"
        "from harness.doctor import findings\n"
        "known = environment(); findings(known, steadiness())\n"
        "assert known['devices'] == ['NVIDIA H200'], known['devices']\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bare_system_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "no proc"))
    known = environment(tmp_path / "not" / "there")
    assert set(known) >= ALWAYS
    assert known["gpus"] == known["devices"] == []
    assert known["moment"]["disk_free"] > 0
    assert "memory_free" not in known["moment"]
    json.dumps(known, allow_nan=False)
    assert not steadiness(tmp_path).stolen


def test_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert environment(Path("results"))["commit"] == ""
