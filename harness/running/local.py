"""The executor that runs workers on this machine."""

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
from harness.environment.gpus import missing_device
from harness.running import measures
from harness.running.executor import Settings
from harness.running.processes import WorkResult, refuse_full_disk, run_in_worker
from harness.support.files import temporary_folder


class Local:
    """Does work in processes of this machine; nothing else runs during timing."""

    where = ""
    timed_at_once = 1

    def __init__(self, settings: Settings) -> None:
        self.limits = settings.limits
        self.workers = self.in_flight = settings.jobs
        self._plugins, self._check = settings.plugins, settings.check
        self._stop = threading.Event()
        self._numbers = count()
        # Workers side by side would share a GPU's memory.
        self._gpus: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(dir=temporary_folder())
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def missing(self, device: str) -> str | None:
        """See `Executor`."""
        return missing_device(device)

    def start(self) -> None:
        """Start the fork server, which takes a while to import torch."""
        self._work(os.getpid)

    def reference(self, group: Cell) -> tuple[WorkResult, Path]:
        """See `Executor`."""
        path = Path(self._folder.name) / f"{next(self._numbers)}.pt"
        with self._use(group.device):
            return self._work(measures.reference, group, path, self._check), path

    def score(self, cell: Cell, reference: Path) -> WorkResult:
        """See `Executor`."""
        with self._use(cell.device):
            return self._work(measures.score, cell, reference)

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        """See `Executor`."""
        return self._work(measures.time_group, cells, samples)

    def stop(self) -> None:
        """See `Executor`."""
        self._stop.set()

    def obstacle(self) -> str:
        """See `Executor`."""
        return ""

    def _use(self, device: str) -> AbstractContextManager[object]:
        """Let one worker at a time use a GPU; the CPU is shared."""
        return nullcontext() if device == "cpu" else self._gpus[device]

    def _work(self, function: Callable[..., Any], *arguments: Any) -> WorkResult:
        result = run_in_worker(
            function, *arguments, limits=self.limits, plugins=self._plugins, stop=self._stop
        )
        refuse_full_disk(result)
        return result
