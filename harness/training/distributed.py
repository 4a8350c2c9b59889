"""A training spread over processes that torchrun starts: each takes some tasks of a meta-batch."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from estimators import Params
from estimators.base.errors import UserError
from harness.matrix.metrics import Samples

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train together; by default it is the only one.

    `local` is its number on its machine, which is that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Return the items that this process works on."""
        return items[self.rank :: self.count]

    def sum(self, vectors: Params) -> Params:
        """Return the sum over all processes; every one has to call it."""
        if self.count > 1:
            for value in vectors.values():
                dist.all_reduce(value)
        return vectors

    def gather(self, samples: Samples) -> Samples:
        """Return the samples of all items, in their order; every process has to call it."""
        if self.count == 1:
            return samples
        parts: list[Samples] = [{} for _ in range(self.count)]
        dist.all_gather_object(parts, samples)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: _interleaved([part.get(name, []) for part in parts]) for name in names}

    def from_first(self, make: Callable[[], _T]) -> _T:
        """Call a function on rank 0 and return its result on all; every process has to call it."""
        if self.count == 1:
            return make()
        results: list[Any] = [None]
        if self.rank == 0:
            try:
                results = [make()]
            except UserError as error:
                results = [error]
        dist.broadcast_object_list(results)
        if isinstance(results[0], UserError):
            raise results[0]
        return cast(_T, results[0])


SINGLE = Ranks()


def under_torchrun() -> bool:
    """Return whether torchrun, or a similar launcher, has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def process_group(*, gpus: bool) -> Generator[Ranks]:
    """Join the process group of torchrun, and leave it at the end."""
    store, rank, count = next(rendezvous("env://"))
    # After a restart torchrun's store still has the addresses of the lost processes.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefixed = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=prefixed, rank=rank, world_size=count
    )
    try:
        yield Ranks(rank, count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def _interleaved(parts: Sequence[Sequence[_T]]) -> list[_T]:
    """Put shares back into the order of the items."""
    total = sum(map(len, parts))
    return [parts[place % len(parts)][place // len(parts)] for place in range(total)]
