"""NVIDIA's management library (NVML), which comes with the driver."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import pynvml
import torch


@contextmanager
def driver() -> Generator[bool]:
    """Opens the driver's library for as long as the block lasts; CUDA is not initialised.

    Yields:
        Whether there is one that answers; without it nothing may be asked.
    """
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


def told(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what the driver answers; None where it, or this GPU, does not know."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


@contextmanager
def gpu_of(device: str) -> Generator[Any]:
    """Opens the driver's library for one GPU that this process computes on.

    It is found by its identity: torch counts only the GPUs that it may use, in an order of its own,
    and the driver counts all. A part of a divided GPU (MIG) has an identity of its own.

    Yields:
        What functions of `pynvml` take; None where there is no such library, or it does not know.
    """
    identity = torch.cuda.get_device_properties(device).uuid
    with driver() as there:
        kinds = ("GPU", "MIG") if there else ()
        found = (told(pynvml.nvmlDeviceGetHandleByUUID, f"{kind}-{identity}") for kind in kinds)
        yield next((handle for handle in found if handle is not None), None)
