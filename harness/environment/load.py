"""What a machine is busy with at the moment."""

import os
from pathlib import Path
from typing import Any

import psutil

from harness.environment.cgroups import throttled
from harness.environment.files import known
from harness.environment.processor import overheated


def moment(store: Path | None = None, root: Path = Path("/")) -> dict[str, Any]:
    """Returns how busy, full and hot the machine is now; what is unknown is left out.

    Returns:
        "load": averages over 1, 5 and 15 minutes; "memory_free", "swap", "swap_used" and
        "disk_free" in bytes; "on_battery"; "throttled": how often a control group's processor
        time was used up; "overheated": how often the processor was slowed down by heat.
    """
    return known(
        load=[round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        **_memory(),
        disk_free=_disk_free(store or Path()),
        on_battery=_on_battery(),
        throttled=throttled(root),
        overheated=overheated(root),
    )


def _memory() -> dict[str, int]:
    try:
        free, swap = psutil.virtual_memory().available, psutil.swap_memory()
    except (OSError, RuntimeError):  # as in some sandboxes
        return {}
    return {"memory_free": free, "swap": swap.total, "swap_used": swap.used}


def _disk_free(folder: Path) -> int | None:
    try:
        folder = folder.absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return psutil.disk_usage(str(there)).free
    except OSError:
        return None


def _on_battery() -> bool | None:
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError, ValueError):  # not on every system
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged
