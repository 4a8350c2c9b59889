"""Worker processes of this machine."""

import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any, Self

from harness.cell import Cell
from harness.environment.devices import missing_device
from harness.running import measures
from harness.running.processes import WorkResult, refuse_full_disk, run_in_worker
from harness.running.settings import Settings


class Local:
    """Does work in processes of this machine; timing has the machine for itself."""

    timed_at_once = 1

    def __init__(self, settings: Settings) -> None:
        self.limits = settings.limits
        self.workers = self.in_flight = settings.jobs
        self._plugins = settings.plugins
        self._stop = threading.Event()
        self._numbers = count()
        # What workers side by side took of a card's memory would add up.
        self._cards: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix="metagrad-")
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def missing(self, device: str) -> str | None:
        """See `Executor`."""
        return missing_device(device)

    def ready(self) -> None:
        """Starts what workers are forked from, which takes a while to import torch."""
        self._work(os.getpid)

    def reference(self, group: Cell) -> tuple[WorkResult, Path]:
        """See `Executor`."""
        path = Path(self._scratch.name) / f"{next(self._numbers)}.pt"
        with self._turn_on(group.device):
            return self._work(measures.reference, group, path), path

    def score(self, cell: Cell, reference: Path) -> WorkResult:
        """See `Executor`."""
        with self._turn_on(cell.device):
            return self._work(measures.score, cell, reference)

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        """See `Executor`."""
        return self._work(measures.time_group, cells, samples)

    def stop(self) -> None:
        """See `Executor`."""
        self._stop.set()

    def trouble(self) -> str:
        """See `Executor`."""
        return ""

    def _turn_on(self, device: str) -> AbstractContextManager[object]:
        """Has one worker at a time on each card; on the CPU as many as there are."""
        return nullcontext() if device == "cpu" else self._cards[device]

    def _work(self, function: Callable[..., Any], *arguments: Any) -> WorkResult:
        ending = run_in_worker(
            function, *arguments, limits=self.limits, plugins=self._plugins, stop=self._stop
        )
        refuse_full_disk(ending)
        return ending
