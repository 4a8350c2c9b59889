"""Programs of CUDA as graphs: hundreds of small kernels that are launched by one call."""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

Run = Callable[[list[Tensor]], list[Tensor]]

_MOST = 16  # depths, or other shapes, whose graphs are at hand: each holds its memory


class Launched:
    """A program that is captured as a CUDA graph for each depth that it is called with.

    Where a capture fails, since something waits for the device, the program is run as it is.

    Args:
        run: the program.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._graphs: dict[object, _Graph | None] = {}

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        """Run the program; what it returns is no part of a graph's memory."""
        key = tuple([tensor.shape for tensor in given])
        if key not in self._graphs:
            if len(self._graphs) >= _MOST:
                self._graphs.clear()
            self._graphs[key] = None
            with suppress(RuntimeError):
                self._graphs[key] = _Graph(self._run, given)
        graph = self._graphs[key]
        return self._run(given) if graph is None else graph.launch(given)


class _Graph:
    def __init__(self, run: Run, given: list[Tensor]) -> None:
        self._given = [tensor.clone() for tensor in given]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run(self._given)  # lazy initialisations cannot be captured
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = run(self._given)

    def launch(self, given: list[Tensor]) -> list[Tensor]:
        """Copy inputs to where the graph reads them, and results from where it writes them."""
        for own, tensor in zip(self._given, given, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        return [result.clone() for result in self._results]
