"""Independent products on a few CUDA streams, so that kernels of several run side by side."""

from collections.abc import Callable, Sequence
from functools import cache

import torch

from estimators.base.tree import Params

# One Python thread launches all kernels. Where they are small it keeps no more streams busy than
# a few, and where they are large one fills the device; each stream has memory of its own cached.
_STREAMS = 4


def side_by_side(works: Sequence[Callable[[], Params]], device: torch.device) -> list[Params]:
    """Does pieces of work that do not depend on each other, on CUDA streams in turns.

    They start after all that the current stream was given before, and what it is given later
    starts after them. Autograd runs an operation's backward on the stream of its forward, so that
    each piece with all of its derivatives stays on one stream.

    Args:
        works: each uses tensors that live until this returns, and returns new ones.
        device: where they work; on one that has no streams they are done one after another.

    Returns:
        What they return, in their order.
    """
    if device.type != "cuda":
        return [work() for work in works]
    current = torch.cuda.current_stream(device)
    streams = _streams(device)[: len(works)]
    for stream in streams:
        stream.wait_stream(current)
    results = []
    try:
        for place, work in enumerate(works):
            with torch.cuda.stream(streams[place % len(streams)]):
                results.append(work())
    finally:  # else what failing work has read could be freed, and written to, too early
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
    """Returns a device's streams: always the same, or each would cache memory of its own."""
    return tuple(torch.cuda.Stream(device) for _ in range(_STREAMS))  # type: ignore[no-untyped-call]
