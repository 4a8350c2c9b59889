"""Test work: how evenly a processor repeats a small computation."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from harness.environment.machine import overheated, throttled

_SIZE = 192  # a product takes some 0.15 ms and fits into the cache of a core
_SAMPLE = 0.004  # seconds; about as long as the short samples of a run
_SAMPLES = 200
_ENOUGH = 1.0  # seconds; on a busy machine there are fewer samples


@dataclass(frozen=True)
class Steadiness:
    """Measurements of a second of test work on one thread.

    Attributes:
        waited: share of the time in which the processor ran something else.
        stolen: share of processor time that the hypervisor gave to other machines.
        throttled: how often a control group's processor time was used up.
    """

    seconds: tuple[float, ...]
    waited: float = 0.0
    stolen: float = 0.0
    throttled: int = 0
    overheated: int = 0

    @property
    def spread(self) -> float:
        """Upper quartile over lower quartile."""
        lower, upper = np.quantile(self.seconds, (0.25, 0.75))
        return float(upper / lower)

    @property
    def drift(self) -> float:
        """Median of the last third over that of the first."""
        third = max(1, len(self.seconds) // 3)
        return float(np.median(self.seconds[-third:]) / np.median(self.seconds[:third]))


def steadiness(root: Path = Path("/")) -> Steadiness:
    """Time products of small matrices on one thread for about a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        matrix = torch.randn(
            *(_SIZE, _SIZE), generator=torch.Generator("cpu").manual_seed(0), device="cpu"
        )
        warm = [_seconds(matrix, 20) / 20 for _ in range(10)]
        products = max(1, round(_SAMPLE / min(warm)))
        before, ran = _counters(root), time.thread_time()
        end = time.perf_counter() + _ENOUGH
        seconds = [_seconds(matrix, products)]
        while len(seconds) < _SAMPLES and time.perf_counter() < end:
            seconds.append(_seconds(matrix, products))
        ran, after = time.thread_time() - ran, _counters(root)
    finally:
        torch.set_num_threads(threads)
    stolen, total, short, hot = (end - start for start, end in zip(before, after, strict=True))
    return Steadiness(
        tuple(seconds),
        waited=max(0.0, 1 - ran / sum(seconds)),
        stolen=stolen / total if total > 0 else 0.0,
        throttled=int(short),
        overheated=int(hot),
    )


def _seconds(matrix: torch.Tensor, products: int) -> float:
    start = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    return time.perf_counter() - start


def _counters(root: Path) -> tuple[float, float, int, int]:
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):  # as in some sandboxes
        stolen = total = 0.0
    else:
        # The user's time includes that of guests.
        parts = {name: value for name, value in times._asdict().items() if "guest" not in name}
        stolen, total = parts.get("steal", 0.0), sum(parts.values())
    return stolen, total, throttled(root) or 0, overheated(root) or 0
