"""The processor, memory and limits of this machine, and how busy it is."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil


def known(**facts: Any) -> dict[str, Any]:
    """Return the facts that are neither None nor empty.

    >>> known(boost=False, governor="", quota=None)
    {'boost': False}
    """
    return {name: fact for name, fact in facts.items() if fact is not None and fact != ""}


def read(path: Path) -> str:
    """Return the content of a file; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def processor_name(root: Path = Path("/")) -> str:
    """Return the processor's name."""
    return _cpuinfo(root).get("model name") or platform.processor()


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """Return the properties of the processor that decide how steady timings are, if known.

    "usable" processors are those of this process, "driver" is that of the clock, "smt" is whether
    two hardware threads share a core.
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
    """Return how often heat has slowed cores down since the system's start."""
    counters = (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    counts = [_integer(read(counter)) for counter in counters]
    return sum(count or 0 for count in counts) if counts else None


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the properties of the first processor."""
    first = read(root / "proc/cpuinfo").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _boost(cpus: Path) -> bool | None:
    if off := read(cpus / "intel_pstate/no_turbo"):
        return off == "0"
    on = read(cpus / "cpufreq/boost")
    return on == "1" if on else None


def _mhz(path: Path) -> float | None:
    kilohertz = _integer(read(path))
    return kilohertz / 1000 if kilohertz else None


def load(store: Path | None = None, root: Path = Path("/")) -> dict[str, Any]:
    """Return how busy, full and hot the machine is now, if known; sizes are in bytes."""
    return known(
        load=[round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        **_free_memory(),
        disk_free=_free_disk(store or Path()),
        on_battery=_on_battery(),
        throttled=throttled(root),
        overheated=overheated(root),
    )


def _free_memory() -> dict[str, int]:
    try:
        free, swap = psutil.virtual_memory().available, psutil.swap_memory()
    except (OSError, RuntimeError):  # as in some sandboxes
        return {}
    return {"memory_free": free, "swap": swap.total, "swap_used": swap.used}


def _free_disk(folder: Path) -> int | None:
    try:
        folder = folder.absolute()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        return psutil.disk_usage(str(existing)).free
    except OSError:
        return None


def _on_battery() -> bool | None:
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError, ValueError):  # not on every system
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def limits(root: Path = Path("/")) -> dict[str, float]:
    """Return the least limits of the control groups, as of a container, that this process is in.

    Source: cgroup-v1 and cgroup-v2 in the documentation of the Linux kernel.
    """
    quotas, memories = [], []
    for folder in _control_groups(root, "cpu"):
        text = read(folder / "cpu.max") or " ".join(
            read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")
        )
        quota, period = (_integer(part) for part in (*text.split(), "", "")[:2])
        if quota and period and quota > 0:  # "max" and -1 stand for no limit
            quotas.append(quota / period)
    for folder in _control_groups(root, "memory"):
        limit = _integer(read(folder / "memory.max") or read(folder / "memory.limit_in_bytes"))
        if limit is not None and limit < 2**60:  # version 1 writes a huge number for no limit
            memories.append(limit)
    return known(processors=min(quotas, default=None), memory=min(memories, default=None))


def throttled(root: Path = Path("/")) -> int | None:
    """Return how often this process's control groups had used their processor time up."""
    counts = [
        int(line.split()[1])
        for folder in _control_groups(root, "cpu")
        for line in read(folder / "cpu.stat").splitlines()
        if line.startswith("nr_throttled ")
    ]
    return sum(counts) if counts else None


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of a controller's groups, the innermost first, of both versions."""
    mounted = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            top = mounted / controllers
        elif not controllers:
            top = mounted / "unified" if (mounted / "unified").is_dir() else mounted
        else:
            continue
        # A container may see its own group as the top, under the path it has outside.
        inner = Path(path.lstrip("/"))
        yield from (top / group for group in (inner, *inner.parents) if ".." not in group.parts)
