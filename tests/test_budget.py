"""A run within a budget of time does what fits, in a useful order, and goes on at the next call."""

import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cell import Cell
from harness.matrix.outcome import Outcome, Status
from harness.matrix.plan import Planned
from harness.running import budget as module
from harness.running.budget import Budget
from harness.running.estimate import CostModel
from harness.running.executor import Settings
from harness.running.processes import Limits, Stopped, WorkResult
from harness.running.resume import begin
from harness.running.runner import run
from harness.store.runs import read_run
from harness.support.units import seconds_of
from tests.support.commands import TINY, Command, estimators

SETTINGS = Settings(jobs=1, samples=6)
PLAN = [
    Planned(Cell.of(estimator=name, task=task, model=model, depth=depth, num_tasks=1))
    for task, model in (("quadratic", "linear"), ("sinusoid", "mlp-40-40"))
    for depth in (1, 2)
    for name in ("maml", "fomaml")
]
SECONDS = {"reference": 5.0, "score": 2.0, "time": 10.0}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Put a clock in place of the budget's that only the made-up executor moves on."""
    made = SimpleNamespace(now=0.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr(module, "time", made)
    return made


class Costs(CostModel):
    """Says what `SECONDS` says."""

    def reference(self, group: Cell) -> float:
        return SECONDS["reference"]

    def score(self, cell: Cell) -> float:
        return SECONDS["score"]

    def times(self, cells: Any) -> float:
        return SECONDS["time"]


class Made:
    """An executor whose work takes `slower` times the seconds that are expected."""

    limits = Limits(60.0, 2e9)
    where = ""
    workers = in_flight = timed_at_once = 1

    def __init__(self, clock: SimpleNamespace, slower: float = 1.0) -> None:
        self.clock, self.slower = clock, slower
        self.work: list[tuple[str, str, int]] = []
        self.stopped = Event()
        self.at_once = self.most_at_once = 0

    def _do(self, stage: str, cell: Cell, value: Any = None) -> WorkResult:
        self.work.append((stage, cell.model, cell.depth))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        sleep(0.01)  # so that others begin meanwhile, if any do
        self.at_once -= 1
        self.clock.now += self.slower * SECONDS[stage]
        return WorkResult(Outcome(Status.OK), value, self.slower * SECONDS[stage])

    def missing(self, device: str) -> str | None:
        return None

    def start(self) -> None: ...

    def reference(self, group: Cell) -> tuple[WorkResult, str]:
        return self._do("reference", group), "reference"

    def score(self, cell: Cell, reference: Any) -> WorkResult:
        assert reference
        return self._do("score", cell, ({"bias": [0.5]}, []))

    def time(self, cells: list[Cell], samples: int) -> WorkResult:
        return self._do("time", cells[0], [({"time": [1.0]}, []) for _ in cells])

    def stop(self) -> None:
        self.stopped.set()

    def obstacle(self) -> str:
        return ""


def called(store: Path, clock: SimpleNamespace, seconds: float, slower: float = 1.0) -> Any:
    """Run `PLAN` within a budget; return the executor, the budget and the cells that are left."""
    clock.now = 0.0
    made, budget = Made(clock, slower), Budget(seconds, Costs(SETTINGS))
    session = begin(store, PLAN, samples=SETTINGS.samples)
    left = run(PLAN, session, SETTINGS, executor=made, budget=budget)
    return made, budget, left


def test_groups_of_all_settings_are_done_in_turns_until_the_budget_is_spent(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    group = ("reference", "score", "score", "time")
    made, budget, left = called(tmp_path, clock, 60.0)
    assert made.work == [
        *((stage, "linear", 1) for stage in group),
        *((stage, "mlp-40-40", 1) for stage in group),
        # No room is left for its times; what else there is room for is done.
        *((stage, "linear", 2) for stage in group[:3]),
        *((stage, "mlp-40-40", 2) for stage in group[:3]),
    ]
    assert (left, budget.begun) == (4, 14)
    (journal,) = (tmp_path / "runs").glob("*.jsonl")
    assert not read_run(journal).ended
    made, _, left = called(tmp_path, clock, 60.0)
    assert made.work == [("time", "linear", 2), ("time", "mlp-40-40", 2)]
    assert left == 0
    assert [*(tmp_path / "runs").glob("*.jsonl")] == [journal]
    run_read = read_run(journal)
    assert run_read.ended
    assert all({*cell.stages} == {"score", "time"} for cell in run_read.cells)


def test_estimates_are_corrected_by_what_was_measured(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    # By its estimates all of the plan takes 76 seconds, by the work of the first group 152.
    _, _, left = called(tmp_path / "slow", clock, 100.0, slower=2.0)
    assert left == 4
    assert clock.now <= 100.0
    _, _, left = called(tmp_path / "quick", clock, 100.0, slower=0.1)
    assert left == 0


def test_nothing_is_begun_that_has_to_wait_for_a_gpu(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    made, plan = Made(clock), [Planned(replace(one.cell, device="cuda:0")) for one in PLAN]
    made.in_flight = made.workers = 4
    budget = Budget(1000.0, Costs(SETTINGS))
    session = begin(tmp_path, plan, samples=SETTINGS.samples)
    assert run(plan, session, SETTINGS, executor=made, budget=budget) == 0
    assert made.most_at_once == 1


def test_what_does_not_fit_is_not_begun(tmp_path: Path, clock: SimpleNamespace) -> None:
    made, budget, left = called(tmp_path, clock, 8.0)
    assert (made.work, budget.begun, left) == ([], 0, 8)
    assert budget.refused == pytest.approx(1.25 * 7)  # a reference, and a score to use it


def test_work_that_outlasts_the_budget_is_stopped(clock: SimpleNamespace) -> None:
    made, budget = Made(clock), Budget(0.02, Costs(SETTINGS))
    with budget.enforced(made):
        assert made.stopped.wait(60.0)
        clock.now = 1.0
        raise Stopped
    with pytest.raises(Stopped), Budget(60.0, Costs(SETTINGS)).enforced(made):
        raise Stopped  # for another reason


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5 h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "-9m", "9 days", "0s", "m", "inf s", "1h30"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 9m or 1h"):
        seconds_of(text)


def command(folder: Path, budget: str) -> tuple[int, str, list[str]]:
    """Run the command in a folder; return its exit code, its output and its errors."""
    folder.mkdir(exist_ok=True)
    cells = (*TINY, "--depth", "2", *estimators("maml", "fomaml"))
    with Command(folder, *cells, "--budget", budget) as one:
        return one.code(), (folder / "out").read_text(encoding="utf-8"), one.errors


def test_the_command_goes_on_where_its_store_was_copied_to(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    code, out, (line,) = command(here, "5 parsecs")
    assert (code, out) == (2, "")
    assert "--budget '5 parsecs' is not a duration" in line
    code, _, (line,) = command(here, "0.1s")  # which has passed before anything can be begun
    assert code == 2
    assert "0 of 2 cells are done, 2 remain" in line
    shutil.copytree(here / "results", there / "results")
    code, out, errors = command(there, "1h")
    assert (code, errors) == (0, [])
    (journal,) = (there / "results" / "runs").glob("*.jsonl")
    assert f"Going on with {journal.relative_to(there)}" in out
    assert read_run(journal).ended
    code, out, _ = command(there, "1h")
    assert code == 0
    assert "Measured already" in out
    assert [*(there / "results" / "runs").glob("*.jsonl")] == [journal]
