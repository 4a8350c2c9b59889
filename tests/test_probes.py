"""Probes against independent counts: the profiler, formulas by hand, the operating system."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.two_tensor import TwoTensor

from estimators.base.tree import axpy, leaves
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.probes.memory import (
    LiveStorages,
    baseline_memory,
    peak_and_retained,
    peak_memory,
    profiled_peak,
    reserved_memory,
)
from tests.support.probe_works import SINUSOID, work_of

GLYPHS: dict[str, Any] = {"task": "glyphs:5way-1shot", "model": "conv4-16"}


def profiled(work: Callable[[], object]) -> int:
    """Return the peak of what the profiler says the allocator gave out and took back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as done:
        work()
    results: Any = done.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return int(peak)


def test_peak_memory_is_that_of_the_profiler_and_repeats_to_the_byte() -> None:
    for case in (
        ("maml", 5, SINUSOID),
        ("adjoint", 5, SINUSOID),
        ("imaml", 3, SINUSOID),
        ("reptile", 3, SINUSOID),
        ("binom(engine='func', order=2)", 3, SINUSOID),
        ("binom(batching='vmap', order=2)", 4, SINUSOID),
        ("maml", 2, GLYPHS),
        ("adjoint", 2, GLYPHS),
        ("truncated(order=1)", 2, GLYPHS),
        ("binom(order=1)", 2, GLYPHS),
        ("binom(engine='forward', order=1)", 2, GLYPHS),
        ("binom(batching='vmap', order=1)", 2, GLYPHS),
    ):
        work = work_of(*case)
        work()  # whatever is allocated once
        peak = peak_memory(work, "cpu")
        expected = profiled(work)
        assert peak == pytest.approx(expected, rel=1e-3), case
        assert profiled_peak(work) == expected, case
        gc.collect()
        assert peak_and_retained(work, "cpu") == (peak, 0), case


def test_steps_in_a_graph_hold_neither_gradients_nor_iterates() -> None:
    def work() -> None:
        point = leaves({"a": torch.ones(1000), "b": torch.ones(1000)})
        for _ in range(10):
            point = axpy(-0.1, {name: torch.ones(1000) for name in point}, point)

    assert peak_memory(work, "cpu") <= 4 * 2 * 4000


def views_of_one_storage() -> object:
    made = torch.ones(100, 100)
    parts = made[10:], made.t(), made.view(-1)[5:], made.expand(7, 100, 100), made.unbind()
    return parts, made.as_strided((50, 50), (1, 100)), made.detach(), made[3].add_(1)


def two_tensors_on_one_storage() -> object:
    one, other = torch.ones(10_000), torch.empty(0)
    other.set_(one.untyped_storage(), 100, (2000,), (1,))
    return one * 2, other + 1


def resized_in_place() -> object:
    grown, shrunk = torch.ones(500), torch.ones(900)
    grown.resize_(3000).fill_(1)
    shrunk.resize_(10)  # keeps its storage
    torch.add(torch.ones(400), 1, out=torch.empty(0))
    return grown.add_(1), shrunk


def resized_storage() -> object:
    grown, emptied = torch.ones(800), torch.ones(2000)
    emptied.untyped_storage().resize_(0)
    emptied.resize_(0)
    grown.untyped_storage().resize_(20_000)
    return grown.add_(1), torch.ones(300)


def of_foreign_memory() -> object:
    array, raw = np.ones(700), bytearray(8000)
    raw_part = torch.frombuffer(raw, dtype=torch.float32)
    shared = torch.from_numpy(array), raw_part, torch.tensor(array)
    numbers = torch.tensor([1.0] * 600), torch.tensor(3).new_tensor([[2] * 40] * 9)
    doubled = [part * 2 for part in shared]
    return doubled, torch.utils.dlpack.from_dlpack(array) + 1, torch.as_tensor(array), numbers


def dying_inside() -> object:
    made = torch.ones(1000)
    for _ in range(5):
        made = made + torch.ones(200).repeat(5)
    del made
    return torch.ones(100)


def doubly_backward() -> object:
    inputs = torch.ones(30, 20)
    layers = [torch.ones(20, 20, requires_grad=True) for _ in range(3)]
    for layer in layers:
        inputs = torch.tanh(inputs @ layer)
    gradient = torch.autograd.grad(inputs.square().sum(), layers, create_graph=True)
    return torch.autograd.grad([part.sum() for part in gradient], layers)


def vectorised() -> object:
    def loss(weight: Tensor) -> Tensor:
        return (torch.ones(40, 30) @ weight).tanh().square().sum()

    return torch.vmap(torch.func.grad(loss))(torch.ones(5, 30, 20))


def with_zero_tangents() -> object:
    # The constant's tangent is of a size, but takes no memory.
    constant = torch.ones(60, 60)
    return torch.func.jvp(lambda x: (x + constant).sin() * constant, (constant,), (constant,))


def of_subclasses() -> object:
    made = TwoTensor(torch.ones(1000), torch.ones(1000))  # type: ignore[no-untyped-call]
    return (made + 1) * 2


def test_peak_of_odd_tensors_is_that_of_the_profiler() -> None:
    for work in (
        *(views_of_one_storage, two_tensors_on_one_storage, resized_in_place, resized_storage),
        *(of_foreign_memory, dying_inside, doubly_backward, vectorised, with_zero_tangents),
        of_subclasses,
    ):
        work()
        gc.collect()
        with LiveStorages() as storages:
            work()
        gc.collect()
        assert storages.live == 0, work
        assert storages.peak == pytest.approx(profiled(work), rel=1e-3), work


def test_sparse_tensors_are_passed_over() -> None:
    with LiveStorages() as storages:
        dense = (torch.eye(80).to_sparse() * 2).to_dense()
    assert storages.live == dense.untyped_storage().nbytes()


FIGURES = """
from functools import partial
import torch
from estimators import create
from harness.cell import Cell
from harness.probes.flops import count_flops
from harness.probes.launches import count_launches
from harness.probes.memory import baseline_memory, peak_memory
from harness.matrix.problems import bilevel_problem

for name, task, model in (
    ("maml", "sinusoid", "mlp-40-40"),
    ("adjoint", "glyphs(shots=1, ways=2, queries=1)", "conv4-16"),
):
    cell = Cell.of(estimator=name, task=task, model=model, depth=2)
    build = partial(bilevel_problem, cell, 0, dtype=torch.float32, device="cpu")
    work = partial(create(name), *build())
    work()
    print(baseline_memory(build, "cpu"), peak_memory(work, "cpu"))
    print(count_flops(work), count_launches(work))
"""


def test_figures_are_the_same_in_every_process() -> None:
    def figures(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", FIGURES]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    first = figures("1")
    assert sum(int(figure) > 0 for figure in first.split()) == 8
    assert figures("2") == first


def test_baseline_memory_is_what_parameters_and_data_hold() -> None:
    for setting, dtype in ((SINUSOID, torch.float64), (GLYPHS, torch.float32)):
        cell = Cell.of(estimator="maml", depth=3, **setting)
        build = partial(bilevel_problem, cell, 0, dtype=dtype, device="cpu")
        problem, params = build()
        losses: Any = (problem.inner_loss, problem.outer_loss)
        held = [*params.values(), *(tensor for loss in losses for tensor in loss.batch)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
        for _ in range(2):
            assert baseline_memory(build, "cpu") == sum(storages.values()), setting


def test_baseline_memory_counts_a_storage_once_and_no_cache() -> None:
    cache: list[Tensor] = []

    def build() -> object:
        cache.append(torch.ones(1000))
        array = np.ones(50)  # 400 bytes
        made = torch.zeros(100)  # 400 bytes, a view of which keeps all
        torch.ones(5000).sum()
        return made[:3], made[5:], torch.from_numpy(array), cache[-1]

    assert baseline_memory(build, "cpu") == 800


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_cuda() -> None:
    def build() -> Tensor:
        return torch.ones(2**20, device="cuda:0")  # 4 MiB

    given = build()

    def work() -> object:
        made = given * 2
        del made
        return given.repeat(8)

    assert baseline_memory(build, "cuda:0") == 2**22
    for _ in range(2):
        assert peak_memory(work, "cuda:0") == 2**25
        assert 2**25 <= reserved_memory(work, "cuda:0") <= 2**26


def test_memory_grows_with_depth_only_for_an_unrolled_loop() -> None:
    def peak(estimator: str, depth: int) -> int:
        return peak_memory(work_of(estimator, depth, GLYPHS), "cpu")

    assert peak("maml", 8) > 1.4 * peak("maml", 2)
    assert peak("adjoint", 8) < 1.1 * peak("adjoint", 2)


def test_what_outlives_its_work_is_counted_to_the_byte() -> None:
    kept: list[torch.Tensor] = []

    def work() -> torch.Tensor:
        made = torch.ones(3000)
        kept.append(made.sum().expand(10))  # a float, in a view
        return made

    assert peak_and_retained(work, "cpu") == (3000 * 4 + 4, 4)
    assert peak_and_retained(lambda: torch.ones(10), "cpu") == (40, 0)


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


GROWTH = """
import torch
from harness.probes.resident import resident_growth

def work():
    tensor = torch.ones(200 * 2**18)
    for _ in range(20):
        tensor.mul_(1.0)

print(resident_growth(work))
"""


def test_resident_growth_sees_a_tensor_of_200_mib() -> None:
    command = [sys.executable, "-c", GROWTH]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 150 * 2**20 < int(done.stdout) < 300 * 2**20
