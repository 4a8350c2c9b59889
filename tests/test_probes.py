"""Probes against independent counts: the profiler, formulas by hand, the operating system."""

import gc
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from estimators import Estimator, Params, create
from estimators.differentiation import value_and_gradient
from estimators.tree import leaves, scaled
from harness.cell import Cell
from harness.outcome import Diverged
from harness.probes.bias import cosine_distance, measure_bias, relative_error, save_reference
from harness.probes.flops import count_flops
from harness.probes.memory import LiveStorages, peak_memory
from harness.probes.time import interleaved_times
from harness.problems import bilevel_problem

SINUSOID: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40"}
GLYPHS: dict[str, Any] = {"task": "glyphs:5way-1shot", "model": "conv4-16"}


def work_of(estimator: str, depth: int, setting: dict[str, Any]) -> Callable[[], object]:
    cell = Cell.of(estimator=estimator, depth=depth, **setting)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    return partial(create(estimator), problem, params)


def profiled_peak(work: Callable[[], object]) -> int:
    """Running sum of what the profiler says the allocator gave out and took back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as done:
        work()
    results: Any = done.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return int(peak)


@pytest.mark.parametrize(
    ("estimator", "depth", "setting"),
    [
        ("maml", 5, SINUSOID),
        ("adjoint", 5, SINUSOID),
        ("maml", 2, GLYPHS),
        ("adjoint", 2, GLYPHS),
        ("binom(order=1)", 2, GLYPHS),
    ],
    ids=str,
)
def test_peak_memory_is_that_of_the_profiler_and_repeats_to_the_byte(
    estimator: str, depth: int, setting: dict[str, Any]
) -> None:
    work = work_of(estimator, depth, setting)
    work()  # whatever is allocated once
    peak = peak_memory(work, "cpu")
    assert peak == pytest.approx(profiled_peak(work), rel=1e-3)
    assert {peak_memory(work, "cpu") for _ in range(3)} == {peak}


def test_memory_grows_with_depth_for_an_unrolled_loop_alone() -> None:
    def peak(estimator: str, depth: int) -> int:
        return peak_memory(work_of(estimator, depth, GLYPHS), "cpu")

    assert peak("maml", 8) > 1.4 * peak("maml", 2)
    assert peak("adjoint", 8) < 1.1 * peak("adjoint", 2)


@pytest.mark.parametrize("setting", [SINUSOID, GLYPHS], ids=str)
def test_no_tensor_outlives_its_work(setting: dict[str, Any]) -> None:
    work = work_of("maml", 3, setting)
    with LiveStorages() as storages:
        work()
    gc.collect()
    assert storages.peak > 0
    assert storages.live == 0


def test_storages_are_counted_once_and_inputs_not_at_all() -> None:
    given = torch.zeros(1000)
    with LiveStorages() as storages:
        given.add_(1)
        _ = given.view(10, 100)[2:].t()
        assert storages.live == 0
        made = torch.ones(250)  # 1000 bytes
        assert storages.live == 1000
        views = [made.view(25, 10), made[5:], made.detach(), made.view(25, 10).t()]
        made.mul_(2)
        assert (storages.live, storages.peak) == (1000, 1000)
        other = made + 1
        assert (storages.live, storages.peak) == (2000, 2000)
        del made, views
        assert storages.live == 1000
        part = other[:1]  # a view keeps all of its storage
        del other
        assert storages.live == 1000
        del part
        assert (storages.live, storages.peak) == (0, 2000)
        again = torch.empty(125)
        assert (storages.live, storages.peak) == (500, 2000)
    del again
    assert storages.live == 0


def mlp_flops(samples: int, widths: list[int]) -> tuple[int, int, int]:
    """Forward, gradient, and the backward of that gradient, of a multilayer perceptron by hand.

    A layer's product costs m = 2 n in out. The gradient takes one more for the weights and one
    for the inputs (not of the first layer). Backward through it, each product in which both
    factors depend on the parameters costs two more, one of the input x one more.
    """
    products = [2 * samples * a * b for a, b in pairwise(widths)]
    forward, rest = sum(products), sum(products[1:])
    return forward, forward + forward + rest, 2 * products[0] + 6 * rest


def test_flops_of_an_mlp() -> None:
    cell = Cell.of(estimator="maml", depth=5, **SINUSOID)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    forward, gradient, _ = mlp_flops(10, [1, 40, 40, 1])
    assert (forward, gradient) == (33_600, 100_000)
    assert count_flops(lambda: problem.inner_loss(params)) == forward
    point = leaves(params)
    assert count_flops(lambda: value_and_gradient(problem.inner_loss, point)) == gradient


def test_flops_of_exact_estimators_on_an_mlp() -> None:
    _, gradient, backward = mlp_flops(10, [1, 40, 40, 1])
    assert backward == 198_400
    unrolled = 5 * (gradient + backward) + gradient
    assert count_flops(work_of("maml", 5, SINUSOID)) == unrolled == 1_592_000
    assert count_flops(work_of("adjoint", 5, SINUSOID)) == unrolled + 5 * gradient
    assert count_flops(work_of("fomaml", 5, SINUSOID)) == 6 * gradient
    assert count_flops(work_of("reptile", 5, SINUSOID)) == 5 * gradient + 33_600


def test_flops_of_a_convolution() -> None:
    images, kernel = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    work = partial(functional.conv2d, images, kernel, padding=1)
    assert count_flops(work) == 2 * 2 * 5 * 8 * 8 * 3 * 9
    smaller = partial(functional.conv2d, images, kernel)
    assert count_flops(smaller) == 2 * 2 * 5 * 6 * 6 * 3 * 9


def vectors(estimate: list[float], exact: list[float]) -> tuple[Params, Params]:
    """Spreads both over two tensors, as parameters are."""

    def spread(values: list[float]) -> Params:
        tensor = torch.tensor(values, dtype=torch.float64)
        return {"a": tensor[:1].reshape(()), "b": tensor[1:].reshape(1, -1)}

    return spread(estimate), spread(exact)


@pytest.mark.parametrize(
    ("estimate", "exact", "error", "distance"),
    [
        ([3.0, 4.0, 0.0], [3.0, 4.0, 0.0], 0.0, 0.0),
        ([6.0, 8.0, 0.0], [3.0, 4.0, 0.0], 1.0, 0.0),
        ([-3.0, -4.0, 0.0], [3.0, 4.0, 0.0], 2.0, 2.0),
        ([-4.0, 3.0, 0.0], [3.0, 4.0, 0.0], math.sqrt(2), 1.0),
        ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], 1.0, 1 - math.sqrt(0.5)),
        ([0.0, 0.0, 0.0], [3.0, 4.0, 0.0], 1.0, 1.0),
        ([3.0, 4.0, 0.0], [0.0, 0.0, 0.0], math.inf, 1.0),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0, 0.0),
        ([3e-150, 4e-150, 1e-150], [3e-150, 4e-150, 0.0], 0.2, 1 - 5 / math.sqrt(26)),
        # 1 - cos is 5e-17 here: below the rounding of 1, and so lost if it were subtracted.
        ([1.0, 1e-8, 0.0], [1.0, 0.0, 0.0], 1e-8, 5e-17),
        ([1e9, 1e9 + 1, 0.0], [1e9, 1e9, 0.0], 1 / (math.sqrt(2) * 1e9), 0.125e-18),
    ],
    ids=str,
)
def test_error_and_angle(
    estimate: list[float], exact: list[float], error: float, distance: float
) -> None:
    pair = vectors(estimate, exact)
    assert relative_error(*pair) == pytest.approx(error, rel=1e-6, abs=1e-300)
    assert cosine_distance(*pair) == pytest.approx(distance, rel=1e-5, abs=1e-30)


class Scaled(Estimator):
    """A deliberately wrong estimator: the exact meta-gradient, times a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def estimate(self, problem: Any, params: Params) -> Any:
        exact = create("maml").estimate(problem, params)
        object.__setattr__(exact, "gradient", scaled(self.factor, exact.gradient))
        return exact


@pytest.fixture
def reference(tmp_path: Path) -> tuple[Cell, Path]:
    cell = Cell.of(estimator="maml", depth=3, tasks=4, **SINUSOID)
    save_reference(cell.group, tmp_path / "exact.pt")
    return cell, tmp_path / "exact.pt"


@pytest.mark.parametrize(
    ("factor", "error", "distance"), [(1.0, 0, 0), (1.25, 0.25, 0), (-0.5, 1.5, 2), (0.0, 1, 1)]
)
def test_wrong_estimates_get_the_score_they_deserve(
    reference: tuple[Cell, Path], factor: float, error: float, distance: float
) -> None:
    samples = measure_bias(reference[0], Scaled(factor), reference[1])
    assert list(samples) == ["bias", "cosine_distance"]
    assert samples["bias"] == pytest.approx([error] * 4, abs=1e-12)
    assert samples["cosine_distance"] == pytest.approx([distance] * 4, abs=1e-12)


def test_own_objective_is_scored_beside(reference: tuple[Cell, Path]) -> None:
    samples = measure_bias(reference[0], create("imaml"), reference[1])
    assert len(samples["own_bias"]) == len(samples["bias"]) == 4
    assert max(samples["own_bias"]) < min(samples["bias"])


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_what_is_not_finite_has_diverged(reference: tuple[Cell, Path], factor: float) -> None:
    with pytest.raises(Diverged, match="the estimate of task 0 is not finite"):
        measure_bias(reference[0], Scaled(factor), reference[1])


def test_reference_that_is_not_finite_has_diverged(tmp_path: Path) -> None:
    wild = Cell.of(
        estimator="maml",
        task="quadratic(drift=10)",
        model="linear",
        depth=20,
        step_size=5.0,
    )
    with pytest.raises(Diverged, match="the exact meta-gradient of task 0 is not finite"):
        save_reference(wild.group, tmp_path / "exact.pt")
    assert not (tmp_path / "exact.pt").exists()


GROWTH = """
import torch
from harness.probes.resident import resident_growth

def work():
    tensor = torch.ones(MIB * 2**18)
    for _ in range(20):
        tensor.mul_(1.0)

print(resident_growth(work))
"""


def test_resident_growth_sees_a_tensor_of_200_mib() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH.replace("MIB", "200")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 150 * 2**20 < int(done.stdout) < 300 * 2**20


def test_samples_are_taken_in_turns() -> None:
    calls: list[str] = []

    def work(name: str) -> None:
        calls.append(name)
        time.sleep(0.006)  # long enough not to be repeated within a sample

    times = interleaved_times([partial(work, n) for n in "abc"], samples=6, device="cpu")
    assert "".join(calls) == "aabbcc" + 6 * "abc"
    assert [len(mine) for mine in times] == [6, 6, 6]
    assert all(second >= 0.006 for mine in times for second in mine)


def test_short_work_is_repeated_within_a_sample() -> None:
    calls: list[str] = []
    works = [partial(calls.append, name) for name in "ab"]
    times = interleaved_times(works, samples=7, device="cpu")  # type: ignore[arg-type]
    assert [len(mine) for mine in times] == [7, 7]
    runs = [calls.count(name) - 2 for name in "ab"]
    assert all(count > 7 and count % 7 == 0 for count in runs)
    turn = ["a"] * (runs[0] // 7) + ["b"] * (runs[1] // 7)
    assert calls == ["a", "a", "b", "b", *(turn * 7)]


def test_garbage_collector_rests_and_comes_back() -> None:
    states: list[bool] = []

    def work() -> None:
        states.append(gc.isenabled())
        time.sleep(0.006)

    interleaved_times([work], samples=2, device="cpu")
    assert states == [True, True, False, False]
    assert gc.isenabled()


def test_garbage_collector_comes_back_after_an_exception() -> None:
    calls: list[bool] = []

    def work() -> None:
        calls.append(gc.isenabled())
        time.sleep(0.006)
        if len(calls) == 4:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interleaved_times([work], samples=6, device="cpu")
    assert calls == [True, True, False, False]
    assert gc.isenabled()
