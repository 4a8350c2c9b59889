"""Which devices there are."""

import torch


def missing_device(device: str) -> str | None:
    """Tells that a device is not in this machine; None when it is.

    Args:
        device: "cpu" or "cuda:N".
    """
    if device == "cpu":
        return None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2]) < count:
        return None
    return f"{device} is not in this machine"
