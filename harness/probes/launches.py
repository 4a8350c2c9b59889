"""Operator launches, what small models are bound by."""

from collections.abc import Callable
from typing import Any

import torch

from harness.matrix.metrics import Samples
from harness.probes.memory import storages
from harness.probes.operators import watch_operators
from harness.probes.target import Target


def launches(target: Target) -> Samples:
    """Count the launches of one estimate; a compiled program hides its own."""
    return {} if target.compiled else {"launches": [target.estimates.mean(count_launches)]}


def count_launches(work: Callable[[], object]) -> int:
    """Return how many operators that work on data torch dispatches during `work`.

    Counted below autograd and the transforms of torch.func, where composite operators are taken
    apart: `linear` is a transposition and an `addmm`, and `vmap` over it one batched product,
    whatever the number of tasks. An operator counts once, whichever number of kernels it starts
    on a device. These do not count:

    - views, and whatever else returns the storage that it was given and writes nothing;
    - operators that only change a tensor's shape or storage, as `resize_`, `squeeze_`;
    - bare allocations, as `empty` (`zeros` counts, for it fills);
    - operators that return no tensor, as those that compare shapes, and `item`.

    Example:
        >>> weight, x = torch.ones(3, 2), torch.ones(5, 2)
        >>> count_launches(lambda: torch.relu(x @ weight.t()).sum())  # mm, relu, sum
        3
    """
    count = 0

    def seen(func: Any, args: Any, kwargs: Any, result: Any) -> None:
        nonlocal count
        count += _works(func, _addresses((args, kwargs)), _addresses(result))

    watch_operators(work, seen)
    return count


_aten = torch.ops.aten
_ALLOCATIONS = {
    _aten.empty,
    _aten.empty_like,
    _aten.empty_permuted,
    _aten.empty_strided,
    _aten.new_empty,
    _aten.new_empty_strided,
}


def _works(func: Any, given: set[int], returned: set[int]) -> bool:
    if func.overloadpacket in _ALLOCATIONS or torch.Tag.inplace_view in func.tags:
        return False
    return bool(func._schema.is_mutable or returned - given)


def _addresses(tree: Any) -> set[int]:
    """Return the storages of a tree's tensors, as numbers that are valid while these live."""
    return {storage._cdata for storage in storages(tree)}
