"""Whether a device can be used here, and if not, why."""

import os
from functools import cache
from typing import Any

import torch

from harness.environment.gpus import gpus
from harness.environment.nvml import driver


@cache  # a matrix asks for each of its cells, and to open a driver takes time
def missing_device(device: str) -> str | None:
    """Tells why a device cannot be used here; None when it can."""
    if device == "cpu":
        return None
    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        return f"{device}: {_why(count)}"
    if too_old := _too_old(gpus()):
        return f"{device}: {too_old}"
    return None


def _too_old(found: list[dict[str, Any]]) -> str:
    """Tells that a driver is too old for this torch: any of CUDA's major version will do."""
    able, wanted = (found[0].get("cuda") if found else None), torch.version.cuda
    if able and wanted and int(able.partition(".")[0]) < int(wanted.partition(".")[0]):
        return f"this torch is for CUDA {wanted}, the driver here for no more than {able}"
    return ""


def _why(count: int) -> str:
    """Tells why torch has no more than so many GPUs."""
    if not count and torch.version.cuda is None:
        return "this torch is built without CUDA"
    here, chosen = len(gpus()), os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and count < here:
        return f"CUDA_VISIBLE_DEVICES={chosen!r} leaves {_counted(count)}, of {here}"
    if count:
        return f"there {'is' if count == 1 else 'are'} {_counted(count)}"
    with driver() as there:
        return "there is no GPU" if there else "no NVIDIA driver was found"


def _counted(count: int) -> str:
    """Writes a number of GPUs, with their names as torch counts them."""
    names = [f"cuda:{index}" for index in range(count)]
    if count <= 1:
        return ", ".join([f"{count or 'no'} GPU", *names])
    return f"{count} GPUs, {names[0]} to {names[-1]}"
