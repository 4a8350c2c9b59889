"""NVIDIA GPUs as their driver tells of them, without CUDA being initialised."""

import os
import subprocess
from typing import Any

import torch

from harness.environment.files import known

_FIELDS = {
    "index": "index",
    "id": "uuid",
    "name": "name",
    "driver": "driver_version",
    "memory": "memory.total",
    "mhz": "clocks.sm",
    "most_mhz": "clocks.max.sm",
    "busy": "utilization.gpu",
    "power_limit": "power.limit",
}
# As nvml.h numbers them. Idle clocks (1) and chosen ones (2, 0x100) are no fault.
_SLOWED = {
    0x4: "power limit",
    0x8: "hardware",
    0x20: "heat",
    0x40: "heat",
    0x80: "power supply",
}


def gpus() -> list[dict[str, Any]]:
    """Asks `nvidia-smi` for all GPUs; what is not known of one is left out.

    Returns:
        For each "index", "id", "name", "driver", "memory" in bytes, "mhz" and "most_mhz" of the
        multiprocessors' clock, "busy" in per cent, "power_limit" in watts, and "slowed": all that
        holds the clock down now.
    """
    # The field was renamed with driver 535, and an unknown field fails the whole query.
    for reasons in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
        lines = _query([*_FIELDS.values(), reasons])
        if lines is not None:
            return [_gpu(line) for line in lines if line.count(",") == len(_FIELDS)]
    return []


def visible(found: list[dict[str, Any]]) -> list[str]:
    """Returns the names of the GPUs that torch may use, by `CUDA_VISIBLE_DEVICES`.

    Args:
        found: what `gpus` returned.
    """
    if torch.version.cuda is None:
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [gpu["name"] for gpu in found]
    names = []
    for part in chosen.split(","):
        part = part.strip()
        match = [
            gpu["name"]
            for gpu in found
            if part and (part == gpu["index"] or gpu["id"].startswith(part))
        ]
        if not match:  # CUDA, too, takes no notice of what follows a device that is not there
            break
        names += match
    return names


def _query(fields: list[str]) -> list[str] | None:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (FileNotFoundError, subprocess.TimeoutExpired):  # no use in asking again
        return []
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()


def _gpu(line: str) -> dict[str, Any]:
    *values, reasons = (value.strip() for value in line.split(","))
    told = {
        field: "" if "N/A" in value or "Not Supported" in value else value
        for field, value in zip(_FIELDS, values, strict=True)
    }
    memory = _whole(told["memory"])
    bits = int(reasons, 16) if reasons.startswith("0x") else 0
    return {
        "index": told["index"],
        "id": told["id"],
        "name": told["name"],
        **known(
            driver=told["driver"],
            memory=memory * 2**20 if memory else None,
            mhz=_whole(told["mhz"]),
            most_mhz=_whole(told["most_mhz"]),
            busy=_whole(told["busy"]),
            power_limit=_whole(told["power_limit"]),
        ),
        "slowed": sorted({why for bit, why in _SLOWED.items() if bits & bit}),
    }


def _whole(text: str) -> int | None:
    try:
        return round(float(text))
    except ValueError:
        return None
