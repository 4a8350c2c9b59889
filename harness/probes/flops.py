"""Floating-point operations."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def count_flops(work: Callable[[], object]) -> int:
    """Returns the operations of matrix products and convolutions that `work` runs.

    A multiplication and the addition that follows are two. Elementwise work is not counted.

    Args:
        work: what to count.

    Example:
        >>> import torch
        >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
        48
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
