"""How samples of time are taken: in turns, often enough, with the collector at rest."""

import gc
import time
from functools import partial
from itertools import groupby

import pytest

from harness.probes.time import Work, interleaved_times


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


def test_garbage_collector_rests_and_comes_back() -> None:
    states: list[bool] = []

    def work() -> None:
        states.append(gc.isenabled())
        time.sleep(0.006)

    (timing,) = interleaved_times([work], samples=2, device="cpu")
    assert states == [True] * timing.warm_up + [False] * 4  # two of them for phases
    assert gc.isenabled()


def test_garbage_collector_comes_back_after_an_exception() -> None:
    resting: list[bool] = []

    def work() -> None:
        time.sleep(0.006)
        if not gc.isenabled():
            resting.append(True)
            if len(resting) == 2:
                raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interleaved_times([work], samples=6, device="cpu")
    assert len(resting) == 2
    assert gc.isenabled()
