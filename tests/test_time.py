"""Timing on a clock that the work itself moves, and what is noted of a busy machine."""

import gc
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators import create
from estimators.base.differentiation import value_and_gradient
from estimators.base.phases import Phase, phase
from estimators.base.tree import leaves
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.probes import time as probe
from harness.probes.interference import (
    Reading,
    machine_notes,
    read,
    sample_notes,
    seconds_waited,
    waiting_notes,
)
from harness.probes.time import Work, interleaved_times, settled


class Clock:
    """Stands for `perf_counter`; only work takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        """Return work that takes these times, call by call, and then the last of them for ever."""
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probe, "perf_counter", clock)
    return clock


def estimate(clock: Clock, inner: float, outer: float, rest: float) -> Work:
    """Work of two inner steps with something between them, an outer gradient, and the rest."""

    def run() -> None:
        for _ in range(2):
            with phase(Phase.INNER_LOOP):
                clock.now += inner / 2
        with phase(Phase.OUTER_GRADIENT):
            clock.now += outer
        clock.now += rest

    return run


def test_phases_add_up_to_the_whole(clock: Clock) -> None:
    works = [estimate(clock, 0.25, 0.5, 1.0), clock.work(2.0)]
    whole, plain = interleaved_times(works, samples=3, device="cpu")
    assert whole.seconds == pytest.approx([1.75] * 3)
    assert whole.phases["inner loop"] == pytest.approx([0.25] * 3)
    assert whole.phases["outer gradient"] == pytest.approx([0.5] * 3)
    assert whole.phases["meta-gradient"] == pytest.approx([1.0] * 3)
    assert len(whole.phases) == 3
    assert plain.seconds == pytest.approx([2.0] * 3)
    assert not plain.phases


def test_phases_of_one_run_where_a_sample_repeats_it(clock: Clock) -> None:
    (timing,) = interleaved_times(
        [estimate(clock, 0.0001, 0.0002, 0.0007)], samples=2, device="cpu"
    )
    assert timing.runs == 3
    assert timing.seconds == pytest.approx([0.001] * 2)
    assert timing.phases["outer gradient"] == pytest.approx([0.0002] * 2)
    assert timing.phases["meta-gradient"] == pytest.approx([0.0007] * 2)


def test_phase_of_only_some_samples_is_0_in_the_others(clock: Clock) -> None:
    plain = clock.work(0.1)
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        with phase(Phase.INNER_LOOP if len(calls) > 5 else Phase.META_GRADIENT):
            plain()

    (timing,) = interleaved_times([work], samples=4, device="cpu")
    assert timing.warm_up == 3
    # Calls 5, 7 and 9 are samples of phases.
    assert timing.phases["inner loop"] == pytest.approx([0, 0.1, 0.1])
    assert timing.phases["meta-gradient"] == pytest.approx([0.1, 0, 0])


def test_warm_up_lasts_until_calls_get_no_faster(clock: Clock) -> None:
    cases = [
        ([0.1], 3),  # steady from the start
        ([9.0, 0.1], 3),  # one slow call, such as a compilation
        ([0.5, 0.3, 0.2, 0.1, 0.1], 6),
        ([0.2, 0.1, 0.095], 3),  # within a tenth
        ([0.2, 0.1, 0.08], 4),
        ([0.001], 4),  # as long as a sample, the first call left out
        ([1e-7], 101),
        ([9.0, 1.5], 3),  # dear work is not repeated for long
        ([3.4, 3.0], 2),  # nor at all, and a cold call says nothing of it
        ([9.0, 3.0], 2),
    ]
    for seconds, calls in cases:
        clock.now = 0.0  # as sums of times are rounded
        (timing,) = interleaved_times([clock.work(*seconds)], samples=3, device="cpu")
        assert timing.warm_up == calls, seconds
        assert timing.seconds == pytest.approx([seconds[-1]] * 3), seconds
        assert not any("faster" in note for note in timing.notes), seconds
    assert not settled([1.0, 1.0, 1.0, 0.8, 2.0, 2.0])  # a slow one among the last


def test_warm_up_has_an_end(clock: Clock) -> None:
    falling = [1.0 * 0.8**k for k in range(40)]
    (timing,) = interleaved_times([clock.work(*falling)], samples=3, device="cpu")
    assert 2.0 <= sum(falling[1 : timing.warm_up]) < 2.0 + falling[timing.warm_up - 1]
    assert f"still got faster after {timing.warm_up} calls to warm up" in timing.notes
    (dear,) = interleaved_times([clock.work(1.0, 1.8, 1.5)], samples=3, device="cpu")
    assert "still got faster after 3 calls to warm up" in dear.notes


def test_real_estimates_have_three_phases_and_an_inner_gradient_has_none() -> None:
    cell = Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=2)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    unit = partial(value_and_gradient, problem.inner_loss, leaves(params))
    works: list[Work] = [unit, partial(create("maml"), problem, params)]
    gradient, maml = interleaved_times(works, samples=3, device="cpu")
    assert not gradient.phases
    assert set(maml.phases) == {str(each) for each in Phase}
    assert all(second > 0 for each in maml.phases.values() for second in each)


def test_changed_number_of_threads_is_noted_and_undone(clock: Clock) -> None:
    threads = torch.get_num_threads()

    def rude() -> None:
        torch.set_num_threads(threads + 1)
        clock.now += 1.0

    noted, quiet = interleaved_times([rude, clock.work(1.0)], samples=2, device="cpu")
    assert torch.get_num_threads() == threads
    assert sum(f"{threads + 1} threads" in note for note in noted.notes) == 1
    assert not any("threads" in note for note in quiet.notes)


def test_samples_are_taken_in_turns() -> None:
    calls: list[str] = []

    def work(name: str) -> None:
        calls.append(name)
        time.sleep(0.006)  # long enough not to be repeated within a sample

    times = interleaved_times([partial(work, n) for n in "abc"], samples=6, device="cpu")
    warm_up = "".join(name * timing.warm_up for name, timing in zip("abc", times, strict=True))
    # In three of the rounds each is called once more, for its phases.
    assert "".join(calls) == warm_up + 3 * "aabbcc" + 3 * "abc"
    assert [len(mine.seconds) for mine in times] == [6, 6, 6]
    assert all(second >= 0.006 for mine in times for second in mine.seconds)


def test_garbage_collector_rests_and_is_left_as_it_was() -> None:
    states: list[bool] = []

    def work() -> None:
        states.append(gc.isenabled())
        time.sleep(0.006)

    for collecting in (True, False):
        if not collecting:
            gc.disable()
        try:
            states.clear()
            (timing,) = interleaved_times([work], samples=2, device="cpu")
            # Two of the calls are for phases.
            assert states == [collecting] * timing.warm_up + [False] * 4
            assert gc.isenabled() is collecting
            with pytest.raises(ZeroDivisionError):
                interleaved_times([lambda: 1 / 0], samples=2, device="cpu")
            assert gc.isenabled() is collecting
        finally:
            gc.enable()
    assert gc.get_freeze_count() == 0


def test_short_work_is_repeated_within_a_sample() -> None:
    calls: list[str] = []
    works: list[Work] = [partial(calls.append, name) for name in "ab"]
    one, other = interleaved_times(works, samples=7, device="cpu")
    assert len(one.seconds) == len(other.seconds) == 7
    assert min(one.runs, other.runs) > 1
    turns = [(name, len(list(mine))) for name, mine in groupby(calls)]
    watched = [("a", one.runs + 1), ("b", other.runs + 1)]
    warm_up = [("a", one.warm_up), ("b", other.warm_up)]
    assert turns == [*warm_up, *watched * 3, *[("a", one.runs), ("b", other.runs)] * 4]


def test_samples_tell_of_drift_and_scatter() -> None:
    cases = [
        ([1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.03], ""),
        ([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06], ""),  # drift, not worth telling
        ([1.3, 1.0, 1.0, 1.01, 1.02, 0.99, 1.3], ""),  # two outliers leave the quartiles alone
        ([1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3], "drifted .* 1.24 times"),
        ([1.3, 1.25, 1.2, 1.15, 1.1, 1.05, 1.0], "drifted .* 0.80 times"),
        ([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0], "scattered .* 100%"),  # bimodal
        ([1.0, 1.2, 1.4, 1.6, 1.8], ""),  # too few to tell
    ]
    for seconds, note in cases:
        for unit in (1.0, 1e-6):
            notes = sample_notes([unit * each for each in seconds])
            assert len(notes) == bool(note), (seconds, notes)
            assert re.search(note.replace(" ", ".*"), "".join(notes)), (seconds, notes)


def test_chance_is_seldom_taken_for_drift() -> None:
    draw = random.Random(0)
    series = [[draw.gauss(1.0, 0.08) for _ in range(7)] for _ in range(2000)]
    notes = [note for seconds in series for note in sample_notes(seconds)]
    assert sum("drifted" in note for note in notes) < 20
    assert sum("scattered" in note for note in notes) < 20


QUIET = Reading(at=10.0, processors=4, busy=50.0, stolen=5.0, own=8.0, megahertz=3000.0)


def test_readings_of_the_machine_tell() -> None:
    # One second on four processors, of which this process had one for itself.
    after = replace(QUIET, at=11.0, busy=51.0, own=9.0)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"busy": 51.0}, ""),
        ({"busy": 51.2}, ""),
        ({"busy": 52.64}, "others 41%"),
        ({"stolen": 5.4}, "hypervisor 10%"),
        ({"overheated": 3}, "heat 3 times"),
        ({"throttled": 2}, "CPU quota 2 times"),
        ({"megahertz": 2400.0}, "clock 3000 2400 MHz"),
        ({"megahertz": 3600.0}, ""),
        ({"at": 10.02, "busy": 50.04, "stolen": 5.04, "own": 8.0}, ""),  # a few ticks
    ]
    for changes, note in cases:
        notes = machine_notes(QUIET, replace(after, **changes))
        assert len(notes) == bool(note), (changes, notes)
        assert re.search(note.replace(" ", ".*"), "".join(notes)), (changes, notes)
    assert waiting_notes(0.01, 1.0) == waiting_notes(0.0, 0.0) == []
    assert "30%" in waiting_notes(0.305, 1.0)[0]


def test_counters_of_throttling_are_read(tmp_path: Path) -> None:
    assert (read(tmp_path).overheated, read(tmp_path).throttled) == (0, 0)
    for index, count in enumerate((2, 5)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{index}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
        (folder / "package_throttle_count").write_text("9\n")  # the same of every processor
    assert read(tmp_path).overheated == 7
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/outer/inner\n")
    for group, count in {"outer/inner": 4, "outer": 1, "beside": 8}.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.stat").write_text(f"usage_usec 7\nnr_periods 5\nnr_throttled {count}\n")
    assert read(tmp_path).throttled == 5
    assert not seconds_waited(tmp_path)


@pytest.fixture
def others() -> Generator[None]:
    """Two busy processes for each processor that this one may use."""
    count = 2 * read().processors
    script = "print(flush=True)\nwhile True: pass"
    command = [sys.executable, "-c", script]
    busy = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for each in busy:
            assert each.stdout
            each.stdout.readline()
        yield
    finally:
        for each in busy:
            each.kill()
            each.communicate()


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="needs Linux")
@pytest.mark.usefixtures("others")
def test_busy_processors_are_noted() -> None:
    matrix = torch.ones(200, 200)

    def work() -> None:
        for _ in range(50):
            torch.mm(matrix, matrix)

    timings = interleaved_times([work, work], samples=30, device="cpu")
    for timing in timings:
        assert any(note.startswith("others used") for note in timing.notes), timing.notes
        assert any(note.startswith("waited for a processor") for note in timing.notes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_are_waited_for_and_timed_by_phase() -> None:
    matrix = torch.ones(4096, 4096, device="cuda")

    def work() -> None:
        with phase(Phase.INNER_LOOP):
            for _ in range(8):
                torch.mm(matrix, matrix)
        torch.mm(matrix, matrix)

    (timing,) = interleaved_times([work], samples=7, device="cuda")
    inner, rest = timing.phases["inner loop"], timing.phases["meta-gradient"]
    assert all(most > 4 * least > 0 for most, least in zip(inner, rest, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_phases_are_timed_in_the_backward_pass_of_a_gpu() -> None:
    cell = Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=3, device="cuda:0")
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cuda:0")
    work: Work = partial(create("maml"), problem, params)
    (timing,) = interleaved_times([work], samples=7, device="cuda:0")
    assert set(timing.phases) == {str(each) for each in Phase}
    assert min(min(seconds) for seconds in timing.phases.values()) > 0
