"""NVIDIA GPUs as their driver tells of them, without CUDA being initialised."""

import os
from typing import Any

import pynvml
import torch

from harness.environment.files import known
from harness.environment.nvml import driver, told

# Idle clocks and chosen ones are no fault.
_SLOWED = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "heat",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "heat",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power supply",
}


def gpus() -> list[dict[str, Any]]:
    """Asks the driver for all GPUs; what is not known of one is left out.

    Returns:
        For each "index", "id", "name", "driver", "cuda" (the newest that the driver can),
        "capability", "cores", "memory" in bytes, "ecc", "mig" (whether it is divided), "mhz" and
        "most_mhz" of the multiprocessors' clock, "memory_mhz", "busy" in per cent, "power_limit" in
        watts, and "slowed": all that holds the clock down now. [] without a driver.
    """
    with driver() as there:
        if not there:
            return []
        count = told(pynvml.nvmlDeviceGetCount) or 0
        handles = [told(pynvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        # One that has fallen off the bus keeps its number.
        return [_gpu(index, one) for index, one in enumerate(handles) if one is not None]


def visible(found: list[dict[str, Any]]) -> list[str]:
    """Returns the names of the GPUs that torch may use, by `CUDA_VISIBLE_DEVICES`."""
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


def slowed(handle: Any) -> list[str]:
    """Returns what holds a GPU's clock down now."""
    # The function was renamed with driver 535; each of the two is there with some drivers alone.
    bits = told(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if bits is None:
        bits = told(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    return sorted({why for bit, why in _SLOWED.items() if bits & bit})


def _gpu(index: int, handle: Any) -> dict[str, Any]:
    memory = told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    capability = told(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    ecc = told(pynvml.nvmlDeviceGetEccMode, handle)
    mig = told(pynvml.nvmlDeviceGetMigMode, handle)
    used = told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = told(pynvml.nvmlDeviceGetPowerManagementLimit, handle)
    return {
        "index": str(index),
        "id": told(pynvml.nvmlDeviceGetUUID, handle) or "",
        "name": told(pynvml.nvmlDeviceGetName, handle) or "",
        **known(
            driver=told(pynvml.nvmlSystemGetDriverVersion),
            cuda=_version(told(pynvml.nvmlSystemGetCudaDriverVersion_v2)),
            capability=None if capability is None else ".".join(map(str, capability)),
            cores=told(pynvml.nvmlDeviceGetNumGpuCores, handle),
            memory=None if memory is None else memory.total,
            ecc=None if ecc is None else bool(ecc[0]),
            mig=None if mig is None else bool(mig[0]),
            mhz=told(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            most_mhz=told(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
            memory_mhz=told(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
            busy=None if used is None else used.gpu,
            power_limit=None if milliwatts is None else round(milliwatts / 1000),
        ),
        "slowed": slowed(handle),
    }


def _version(number: int | None) -> str | None:
    """Writes 12080 as CUDA does: 12.8."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"
