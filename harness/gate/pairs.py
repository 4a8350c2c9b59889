"""Time two commits in turns: one sample of the base, one of the head."""

import json
import selectors
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from harness.gate.checkout import Checkout

ROUNDS = 10
"""Rounds, each with new processes: times of two processes of the same code can differ by several
per cent, for as long as both live."""

SAMPLES = 5
"""Samples of a cell from each commit in a round."""

_START = 120.0  # seconds for a process to import all that it needs


@dataclass
class Pairs:
    """Times of the same cells at two commits, and errors by cell."""

    # For each round, the median of the base's samples and of the head's.
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # cells that could be timed at the base

    def drop(self, cells: Sequence[str], lost: "_Lost", head: Checkout) -> None:
        """Drop cells that a worker could not time; the base is timed first."""
        self.errors |= dict.fromkeys(cells, str(lost))
        if lost.checkout is head:
            self.broken |= set(cells)
        for cell in cells:
            self.seconds.pop(cell, None)


class _Lost(Exception):
    """The worker of a checkout does not answer any more."""

    def __init__(self, what: str, checkout: Checkout) -> None:
        super().__init__(what)
        self.checkout = checkout


def paired_times(
    base: Checkout,
    head: Checkout,
    cells: Sequence[str],
    *,
    plugins: Sequence[str] = (),
    time_limit: float = 3600.0,
    on_progress: Callable[[float, str], None] = lambda share, doing: None,
) -> Pairs:
    """Time cells at two commits."""
    pairs = Pairs()
    for number in range(ROUNDS):
        with ExitStack() as stack:
            workers = [stack.enter_context(_Worker(checkout)) for checkout in (base, head)]
            try:
                for worker in workers:
                    worker.send({"plugins": list(plugins)})
                for worker in workers:
                    worker.receive(_START)
            except _Lost as lost:
                pairs.drop(cells, lost, head)
                return pairs
            for place, cell in enumerate(cells):
                if cell in pairs.errors:
                    continue
                on_progress((number + place / len(cells)) / ROUNDS, cell)
                try:
                    pairs.seconds[cell].append(_pair(workers, cell, number, time_limit))
                except _Lost as lost:
                    pairs.drop([cell], lost, head)
                    try:
                        for worker in workers:
                            worker.restart(plugins)
                    except _Lost as more:
                        pairs.drop(cells, more, head)
                        return pairs
    return pairs


def _pair(workers: list["_Worker"], cell: str, number: int, limit: float) -> tuple[float, float]:
    for worker in workers:
        worker.request({"cell": cell}, limit)
    samples: tuple[list[float], list[float]] = ([], [])
    for sample in range(SAMPLES):
        # The order changes from pair to pair and from round to round.
        for i in (0, 1) if (number + sample) % 2 == 0 else (1, 0):
            samples[i].append(float(workers[i].request({"sample": True}, limit)["seconds"]))
    return median(samples[0]), median(samples[1])


class _Worker:
    """A worker process with the code of one commit."""

    def __init__(self, checkout: Checkout) -> None:
        self._checkout = checkout
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            # -P: nothing is imported from the folder itself but by PYTHONPATH.
            [sys.executable, "-P", "-c", "from harness.gate.worker import main; main()"],
            cwd=self._checkout.work,
            env=self._checkout.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._selector.close()
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream:
                    stream.close()
        self._process.wait()

    def restart(self, plugins: Sequence[str]) -> None:
        """Start a new process in place of the old one."""
        self._stop()
        self._start()
        self.request({"plugins": list(plugins)}, _START)

    def request(self, message: dict[str, Any], limit: float) -> dict[str, Any]:
        """Return the answer to a request."""
        self.send(message)
        return self.receive(limit)

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with suppress(OSError):  # a process that has ended gives no answer
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, limit: float) -> dict[str, Any]:
        name = self._checkout.commit[:8]
        if not self._selector.select(limit):
            raise _Lost(f"not done after {limit:g} s at {name}", self._checkout)
        line = self._output.readline()
        if not line:
            code = self._process.wait()
            why = f"the process of {name} ended ({code}); can that commit be timed in pairs?"
            raise _Lost(why, self._checkout)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _Lost(f"{answer['error']} at {name}", self._checkout)
        return answer

    @property
    def _output(self) -> Any:
        assert self._process.stdout
        return self._process.stdout
