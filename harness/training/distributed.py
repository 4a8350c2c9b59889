"""A training spread over processes, as torchrun starts them: tasks of a meta-batch over ranks."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from estimators import Params
from estimators.base.errors import OptionError
from harness.matrix.metrics import Samples

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default it is alone.

    Attributes:
        rank: its number.
        count: how many there are.
        local: its number on its machine, which is that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Returns those of some items that are this process's to work on."""
        return items[self.rank :: self.count]

    def summed(self, vectors: Params) -> Params:
        """Returns the sum over all processes; every one has to call it."""
        if self.count > 1:
            for value in vectors.values():
                dist.all_reduce(value)
        return vectors

    def gathered(self, mine: Samples) -> Samples:
        """Returns samples of all items, in their order; every process has to call it."""
        if self.count == 1:
            return mine
        every: list[Samples] = [{} for _ in range(self.count)]
        dist.all_gather_object(every, mine)
        names = dict.fromkeys(name for one in every for name in one)
        return {name: _in_turn([one.get(name, []) for one in every]) for name in names}

    def first(self, make: Callable[[], _T]) -> _T:
        """Returns what rank 0 has made; every process has to call it.

        Raises:
            OptionError: rank 0 could not make it.
        """
        if self.count == 1:
            return make()
        told: list[Any] = [None]
        if self.rank == 0:
            try:
                told = [make()]
            except OptionError as error:
                told = [error]
        dist.broadcast_object_list(told)
        if isinstance(told[0], OptionError):
            raise told[0]
        made: _T = told[0]
        return made


ALONE = Ranks()


def started_together() -> bool:
    """Whether torchrun, or something like it, has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def together(*, gpus: bool) -> Generator[Ranks]:
    """Meets the other processes that torchrun has started.

    Yields:
        This process among them.
    """
    store, rank, count = next(rendezvous("env://"))
    # torchrun keeps its store when it starts the processes anew, with where the lost ones were.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=own, rank=rank, world_size=count
    )
    try:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        yield Ranks(rank, count, local)
    finally:
        dist.destroy_process_group()


def _in_turn(parts: Sequence[Sequence[_T]]) -> list[_T]:
    """Puts together again what was dealt out in turn."""
    total = sum(map(len, parts))
    return [parts[place % len(parts)][place // len(parts)] for place in range(total)]
