"""Facts on the machine of a run: processor, limits, fingerprint."""

import json
from pathlib import Path

import psutil
import pytest

from harness.environment import MACHINE, environment, fingerprint
from harness.environment.machine import (
    limits,
    load,
    overheated,
    processor,
    processor_name,
    throttled,
)
from harness.environment.steadiness import steadiness
from tests.support.repositories import write


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


def test_machines_lent_anew_each_time_are_one_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [write(tmp_path / name, {"etc/machine-id": name}) for name in ("monday", "tuesday")]

    def fingerprints() -> list[str]:
        return [fingerprint("cpu", 2, 4, 2**34, [], root) for root in roots]

    monkeypatch.delenv(MACHINE, raising=False)
    apart = fingerprints()
    monkeypatch.setenv(MACHINE, "hosted-epyc")
    assert environment()["machine"] == "hosted-epyc"
    assert len(set(fingerprints())) == 1
    assert len({*apart, *fingerprints()}) == 3


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
    assert processor_name(root) == "Some CPU"
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
    assert load(tmp_path, root)["overheated"] == 5


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


CONTROL_GROUPS: dict[str, tuple[dict[str, str], dict[str, float], int | None]] = {
    "0::/": ({}, {}, None),
    "0::/app/worker": (
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
    "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x": (
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "50000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpu.stat": "nr_throttled 7",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
        {"processors": 0.5},
        7,
    ),
    "5:cpu:/\n0::/": (
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        {},
        None,
    ),
    "0::/../outside": ({"../outside/cpu.max": "1 2", "cpu.max": "4 2"}, {"processors": 2}, None),
}


def test_limits_of_control_groups(tmp_path: Path) -> None:
    for number, (groups, (files, expected, stops)) in enumerate(CONTROL_GROUPS.items()):
        mounted = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        mounted |= {"proc/self/cgroup": groups, "sys/fs/cgroup/x": ""}
        root = write(tmp_path / str(number), mounted)
        assert (limits(root), throttled(root)) == (expected, stops), groups


def test_a_bare_system_or_a_folder_that_is_gone_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "no proc"))
    known = environment(tmp_path / "not" / "there")
    assert set(known) >= {
        *("commit", "changes", "machine", "system", "processor", "cores", "memory", "python"),
        *("threads", "packages"),
    }
    assert known["gpus"] == known["devices"] == []
    assert known["moment"]["disk_free"] > 0
    assert "memory_free" not in known["moment"]
    json.dumps(known, allow_nan=False)
    assert not steadiness(tmp_path).stolen
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert environment(Path("results"))["commit"] == ""
