"""Products of a level on a few CUDA streams: who waits for whom, and the same estimates."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators import Params, create
from estimators.hvp import streams
from estimators.hvp.streams import run_on_streams
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from tests.support.oracle import flatten, relative_error

CUDA = torch.device("cuda", 0)
SPECS = (
    "binom(order=1)",
    "binom(order=2)",
    "binom(order=5)",
    "binom-released(order=2)",
    "hybrid(order=2, window=4)",
)


class FakeTensor:
    """Note the streams that it is said to be used by."""

    def __init__(self, log: list[str], name: str) -> None:
        self.record_stream = lambda stream: log.append(f"{name} used by {stream.name}")


class FakeStream:
    """Note which stream it waits for."""

    def __init__(self, log: list[str], name: str) -> None:
        self.name = name
        self.wait_stream = lambda other: log.append(f"{name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls to a CUDA of two side streams, without one."""
    noted: list[str] = []
    main, sides = FakeStream(noted, "main"), [FakeStream(noted, f"side {n}") for n in (0, 1)]

    @contextmanager
    def on(stream: FakeStream) -> Any:
        noted.append(f"on {stream.name}")
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(streams, "_streams", lambda device: tuple(sides))
    return noted


def working(log: list[str], name: str) -> Callable[[], Params]:
    def work() -> Any:
        log.append(f"{name} is made")
        return {"w": FakeTensor(log, name)}

    return work


def test_streams_take_turns_and_wait_at_both_ends(log: list[str]) -> None:
    run_on_streams([working(log, name) for name in "abc"], CUDA)
    assert log == [
        *("side 0 waits for main", "side 1 waits for main"),
        *("on side 0", "a is made", "on side 1", "b is made", "on side 0", "c is made"),
        *("main waits for side 0", "main waits for side 1"),
        *("a used by main", "b used by main", "c used by main"),
    ]
    log.clear()  # no more streams are waited for than have work
    run_on_streams([working(log, "a")], CUDA)
    assert not any("side 1" in line for line in log)


def test_failing_work_is_waited_for(log: list[str]) -> None:
    def fails() -> Params:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_on_streams([working(log, "a"), fails], CUDA)
    assert log[-2:] == ["main waits for side 0", "main waits for side 1"]


def test_without_streams_works_are_done_in_order() -> None:
    works: list[Callable[[], Params]] = [
        partial(dict[str, Tensor], w=torch.tensor(float(n))) for n in range(6)
    ]
    results = run_on_streams(works, torch.device("cpu"))
    assert [int(one["w"]) for one in results] == [*range(6)]


def assert_same_as_in_a_loop(task: str, model: str, device: str, **options: Any) -> None:
    cell = Cell.of(estimator="maml", task=task, model=model, depth=5)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float64, device=device)
    for spec in SPECS:
        streamed = create(spec, batching="streams", **options)(problem, params)
        loop = create(spec, batching="loop", **options)(problem, params)
        assert relative_error(streamed.gradient, flatten(loop.gradient)) < 1e-12, spec
        assert (streamed.hvps, streamed.serial_depth) == (loop.hvps, loop.serial_depth), spec


def test_estimate_is_that_of_the_loop() -> None:
    assert_same_as_in_a_loop("sinusoid", "mlp-40-40", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("task", "model"), [("sinusoid", "mlp-40-40"), ("glyphs:5way-1shot", "conv4-16")]
)
@pytest.mark.parametrize("engine", ["reverse", "func", "finite-difference"])
def test_estimate_on_a_gpu_is_that_of_the_loop_every_time(
    engine: str, task: str, model: str
) -> None:
    for _ in range(5):  # a stream that does not wait is not wrong each time
        assert_same_as_in_a_loop(task, model, "cuda:0", engine=engine)
