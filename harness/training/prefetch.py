"""Meta-batches that are made while the one before is trained on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def ahead(make: Callable[[int], _T], first: int, end: int) -> Iterator[tuple[int, _T]]:
    """Yields each number with what is made of it, of which the next one is at work already.

    Yields:
        The numbers, and what was made of them.

    Example:
        >>> list(ahead(str, 1, 3))
        [(1, '1'), (2, '2')]
    """
    with ThreadPoolExecutor(1, "meta-batches") as pool:
        coming = pool.submit(make, first) if first < end else None
        for number in range(first, end):
            assert coming is not None
            made = coming.result()
            coming = pool.submit(make, number + 1) if number + 1 < end else None
            yield number, made
