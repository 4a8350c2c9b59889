"""Independent products spread over the ranks of a process group, each of which gets them all."""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from estimators.base.errors import OptionError
from estimators.base.tree import Params

_T = TypeVar("_T")


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes.

    Raises:
        OptionError: there is no process group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise OptionError(
            'batching="sharded" needs a process group: call torch.distributed.init_process_group '
            "in every process, as torchrun starts them"
        )
    return dist.get_rank(), dist.get_world_size()


def share(items: Sequence[_T]) -> list[_T]:
    """Return this process's share of some items.

    Args:
        items: the same in all processes.

    Raises:
        OptionError: there is no process group.
    """
    rank, count = rank_and_size()
    return list(items[rank::count])


def gather(mine: Sequence[Params], total: int, like: Params) -> list[Params]:
    """Return the results for all items, in their order; every process has to call it.

    Args:
        mine: results for `share(items)`, one each.
        total: how many items there are.
        like: keys, shapes, dtype and device of a result, the same dtype for all its tensors.

    Raises:
        OptionError: there is no process group.
    """
    _, count = rank_and_size()
    sizes = [value.numel() for value in like.values()]
    first = next(iter(like.values()))
    most = -(-total // count)
    rows = torch.zeros(most, sum(sizes), dtype=first.dtype, device=first.device)
    for row, result in zip(rows, mine, strict=False):
        torch.cat([result[name].reshape(-1) for name in like], out=row)
    every = [torch.empty_like(rows) for _ in range(count)]
    dist.all_gather(every, rows)
    return [_unpacked(every[place % count][place // count], sizes, like) for place in range(total)]


def _unpacked(row: torch.Tensor, sizes: list[int], like: Params) -> Params:
    parts = zip(like.items(), torch.split(row, sizes), strict=True)
    return {name: part.reshape(value.shape) for (name, value), part in parts}
