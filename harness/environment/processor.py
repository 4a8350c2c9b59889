"""The processor, and how its clock is governed."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from harness.environment.files import known, number, read


def model(root: Path = Path("/")) -> str:
    """Returns the processor's name."""
    return _cpuinfo(root).get("model name") or platform.processor()


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """Returns what of the processor decides how steady timings are; what is unknown is left out.

    Returns:
        "logical" processors, and those "usable" by this process; "governor" and "driver" of the
        clock; "boost": whether it may exceed its nominal frequency; "least_mhz" and "most_mhz";
        "smt": whether two hardware threads share a core; "virtual": whether a hypervisor is there.
    """
    cpus = root / "sys/devices/system/cpu"
    clock = cpus / "cpu0/cpufreq"
    governors = {read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    flags = _cpuinfo(root).get("flags")
    return known(
        logical=psutil.cpu_count(),
        usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        governor=", ".join(sorted(governors)),
        driver=read(clock / "scaling_driver"),
        boost=_boost(cpus),
        least_mhz=_mhz(clock / "scaling_min_freq"),
        most_mhz=_mhz(clock / "scaling_max_freq"),
        smt={"1": True, "0": False}.get(read(cpus / "smt/active")),
        virtual="hypervisor" in flags.split() if flags else None,
    )


def overheated(root: Path = Path("/")) -> int | None:
    """Returns how often cores were slowed down because they were hot, since the system's start."""
    counters = (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    counts = [number(read(counter)) for counter in counters]
    return sum(count or 0 for count in counts) if counts else None


def _cpuinfo(root: Path) -> dict[str, str]:
    """Returns what is said of the first processor."""
    first = read(root / "proc/cpuinfo").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _boost(cpus: Path) -> bool | None:
    if off := read(cpus / "intel_pstate/no_turbo"):
        return off == "0"
    on = read(cpus / "cpufreq/boost")
    return on == "1" if on else None


def _mhz(path: Path) -> float | None:
    kilohertz = number(read(path))
    return kilohertz / 1000 if kilohertz else None
