"""Times of two commits, taken in turns: a sample of the one, a sample of the other."""

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

from harness.gate.checkout import Tree

ROUNDS = 10
"""Rounds, each with processes of its own: between two processes of the same code times can differ
by several per cent, for as long as both live."""

SAMPLES = 5
"""Samples of a cell from each commit in a round."""

_START = 120.0  # seconds for a process to import all that it needs


@dataclass
class Pairs:
    """Times of the same cells at two commits.

    Attributes:
        seconds: by cell, for each round the median of the base's samples and of the head's.
        errors: by cell, why it has no times.
        broken: which of them could be timed at the base.
    """

    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def lose(self, cells: Sequence[str], lost: "_Lost", head: Tree) -> None:
        """Gives up cells that a worker could not time; it asks the base first."""
        self.errors |= dict.fromkeys(cells, str(lost))
        if lost.tree is head:
            self.broken |= set(cells)
        for cell in cells:
            self.seconds.pop(cell, None)


class _Lost(Exception):
    """A worker does not answer any more.

    Attributes:
        tree: the commit that it has the code of.
    """

    def __init__(self, what: str, tree: Tree) -> None:
        super().__init__(what)
        self.tree = tree


def paired_times(
    base: Tree,
    head: Tree,
    cells: Sequence[str],
    *,
    plugins: Sequence[str] = (),
    time_limit: float = 3600.0,
    tell: Callable[[float, str], None] = lambda share, doing: None,
) -> Pairs:
    """Times cells at two commits."""
    found = Pairs()
    for number in range(ROUNDS):
        with ExitStack() as stack:
            sides = [stack.enter_context(_Side(tree)) for tree in (base, head)]
            try:
                for side in sides:
                    side.say({"plugins": list(plugins)})
                for side in sides:
                    side.hear(_START)
            except _Lost as lost:
                found.lose(cells, lost, head)
                return found
            for place, cell in enumerate(cells):
                if cell in found.errors:
                    continue
                tell((number + place / len(cells)) / ROUNDS, cell)
                try:
                    found.seconds[cell].append(_pair(sides, cell, number, time_limit))
                except _Lost as lost:
                    found.lose([cell], lost, head)
                    try:
                        for side in sides:
                            side.restart(plugins)
                    except _Lost as more:
                        found.lose(cells, more, head)
                        return found
    return found


def _pair(sides: list["_Side"], cell: str, number: int, limit: float) -> tuple[float, float]:
    for side in sides:
        side.ask({"cell": cell}, limit)
    samples: tuple[list[float], list[float]] = ([], [])
    for sample in range(SAMPLES):
        # Who comes first changes, from pair to pair and from round to round.
        for i in (0, 1) if (number + sample) % 2 == 0 else (1, 0):
            samples[i].append(float(sides[i].ask({"sample": True}, limit)["seconds"]))
    return median(samples[0]), median(samples[1])


class _Side:
    """A worker process with the code of one commit."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            # Nothing is imported from the folder itself that Python was not told to.
            [sys.executable, "-P", "-c", "from harness.gate.worker import main; main()"],
            cwd=self._tree.work,
            env=self._tree.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def __enter__(self) -> "_Side":
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
        """Begins with a new process, whatever has become of the old one."""
        self._stop()
        self._start()
        self.ask({"plugins": list(plugins)}, _START)

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """Returns the answer to a request.

        Raises:
            _Lost: there is none, or it is an error.
        """
        self.say(request)
        return self.hear(limit)

    def say(self, request: dict[str, Any]) -> None:
        assert self._process.stdin
        with suppress(OSError):  # that it has ended is told when its answer is missing
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, limit: float) -> dict[str, Any]:
        name = self._tree.commit[:8]
        if not self._selector.select(limit):
            raise _Lost(f"not done after {limit:g} s at {name}", self._tree)
        line = self._output.readline()
        if not line:
            code = self._process.wait()
            why = f"the process of {name} ended ({code}); can that commit be timed in pairs?"
            raise _Lost(why, self._tree)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _Lost(f"{answer['error']} at {name}", self._tree)
        return answer

    @property
    def _output(self) -> Any:
        assert self._process.stdout
        return self._process.stdout
