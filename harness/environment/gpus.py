"""NVIDIA GPUs, read from their driver by its management library (NVML); CUDA is not initialised."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import pynvml
import torch

from harness.environment.machine import known

# Idle clocks and chosen ones are normal.
_SLOWED = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "heat",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "heat",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power supply",
}


@contextmanager
def open_driver() -> Generator[bool]:
    """Open the driver's library; yield whether one answers, without which `query` would fail."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def query(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the driver's answer; None where it, or this GPU, does not know."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


@contextmanager
def gpu_of(device: str) -> Generator[Any]:
    """Open the driver's library; yield its handle of a GPU, None if it knows no such GPU."""
    # torch counts only the GPUs that it may use, in another order than the driver, which counts
    # all. A part of a divided GPU (MIG) has its own identity.
    identity = torch.cuda.get_device_properties(device).uuid
    with open_driver() as there:
        kinds = ("GPU", "MIG") if there else ()
        handles = (query(pynvml.nvmlDeviceGetHandleByUUID, f"{kind}-{identity}") for kind in kinds)
        yield next((handle for handle in handles if handle is not None), None)


def gpus() -> list[dict[str, Any]]:
    """Return all GPUs; facts that are not known of one are left out.

    "cuda" is the newest that the driver supports, "mig" whether it is divided; memory is in bytes,
    "busy" in per cent, the power limit in watts.
    """
    with open_driver() as there:
        if not there:
            return []
        count = query(pynvml.nvmlDeviceGetCount) or 0
        handles = [query(pynvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        # One that has fallen off the bus keeps its number.
        return [_gpu(index, one) for index, one in enumerate(handles) if one is not None]


def visible(gpus: list[dict[str, Any]]) -> list[str]:
    """Return the names of the GPUs that torch may use, by `CUDA_VISIBLE_DEVICES`."""
    if torch.version.cuda is None:
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [gpu["name"] for gpu in gpus]
    names = []
    for part in map(str.strip, chosen.split(",")):
        match = [
            gpu["name"]
            for gpu in gpus
            if part and (part == gpu["index"] or gpu["id"].startswith(part))
        ]
        if not match:  # CUDA, too, ignores all that follows a device that is not there
            break
        names += match
    return names


def slowed(handle: Any) -> list[str]:
    """Return the causes that hold a GPU's clock down now."""
    # The function was renamed with driver 535; some drivers have only one of the two.
    bits = query(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if bits is None:
        bits = query(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    return sorted({cause for bit, cause in _SLOWED.items() if bits & bit})


def _gpu(index: int, handle: Any) -> dict[str, Any]:
    memory = query(pynvml.nvmlDeviceGetMemoryInfo, handle)
    capability = query(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    ecc = query(pynvml.nvmlDeviceGetEccMode, handle)
    mig = query(pynvml.nvmlDeviceGetMigMode, handle)
    used = query(pynvml.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = query(pynvml.nvmlDeviceGetPowerManagementLimit, handle)
    return {
        "index": str(index),
        "id": query(pynvml.nvmlDeviceGetUUID, handle) or "",
        "name": query(pynvml.nvmlDeviceGetName, handle) or "",
        **known(
            driver=query(pynvml.nvmlSystemGetDriverVersion),
            cuda=_version(query(pynvml.nvmlSystemGetCudaDriverVersion_v2)),
            capability=None if capability is None else ".".join(map(str, capability)),
            cores=query(pynvml.nvmlDeviceGetNumGpuCores, handle),
            memory=None if memory is None else memory.total,
            ecc=None if ecc is None else bool(ecc[0]),
            mig=None if mig is None else bool(mig[0]),
            mhz=query(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            most_mhz=query(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
            memory_mhz=query(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
            busy=None if used is None else used.gpu,
            power_limit=None if milliwatts is None else round(milliwatts / 1000),
        ),
        "slowed": slowed(handle),
    }


def _version(number: int | None) -> str | None:
    """Write 12080 as CUDA does: 12.8."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


@cache  # a plan needs it for each of its cells, and opening a driver takes time
def missing_device(device: str) -> str | None:
    """Return why a device cannot be used here; None if it can."""
    if device == "cpu":
        return None
    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        return f"{device}: {_why(count)}"
    found, wanted = gpus(), torch.version.cuda
    able = found[0].get("cuda") if found else None
    # Any driver for CUDA's major version will do.
    if able and wanted and int(able.partition(".")[0]) < int(wanted.partition(".")[0]):
        return f"{device}: this torch is for CUDA {wanted}, the driver here for no more than {able}"
    return None


def _why(count: int) -> str:
    """Return why torch has no more than so many GPUs."""
    if not count and torch.version.cuda is None:
        return "this torch is built without CUDA"
    here, chosen = len(gpus()), os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and count < here:
        return f"CUDA_VISIBLE_DEVICES={chosen!r} leaves {_counted(count)}, of {here}"
    if count:
        return f"there {'is' if count == 1 else 'are'} {_counted(count)}"
    with open_driver() as there:
        return "there is no GPU" if there else "no NVIDIA driver was found"


def _counted(count: int) -> str:
    """Return a number of GPUs with their names in torch."""
    names = [f"cuda:{index}" for index in range(count)]
    if count <= 1:
        return ", ".join([f"{count or 'no'} GPU", *names])
    return f"{count} GPUs, {names[0]} to {names[-1]}"
