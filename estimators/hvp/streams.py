"""Independent products on a few CUDA streams, so that kernels of several run side by side."""

from collections.abc import Callable, Sequence
from functools import cache

import torch

from estimators.base.tree import Params

# One Python thread launches all kernels. Where they are small it keeps no more streams busy than
# a few, and where they are large one fills the device; each stream caches memory separately.
_STREAMS = 4


def run_on_streams(calls: Sequence[Callable[[], Params]], device: torch.device) -> list[Params]:
    """Run calls that do not depend on each other, on CUDA streams in turns.

    They start after everything queued on the current stream before, and what is queued on it
    later starts after them. Autograd runs an operation's backward on the stream of its forward, so
    that each call stays on one stream with all of its derivatives.

    Args:
        calls: each uses tensors that live until this returns, and returns new ones.
        device: of their tensors; without CUDA they run one after another.

    Returns:
        Their results, in order.
    """
    if device.type != "cuda":
        return [call() for call in calls]
    current = torch.cuda.current_stream(device)
    streams = _streams(device)[: len(calls)]
    for stream in streams:
        stream.wait_stream(current)
    results = []
    try:
        for place, call in enumerate(calls):
            with torch.cuda.stream(streams[place % len(streams)]):
                results.append(call())
    finally:  # else what a failing call has read could be freed, and written to, too early
        for stream in streams:
            current.wait_stream(stream)
    for result in results:
        for value in result.values():
            # Its memory belongs to the other stream, which may not use it again before this one
            # is done with it. What was read belongs to this stream, which waits for the others.
            value.record_stream(current)
    return results


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    """Return a device's streams: always the same, since each caches memory."""
    return tuple(torch.cuda.Stream(device) for _ in range(_STREAMS))  # type: ignore[no-untyped-call]
