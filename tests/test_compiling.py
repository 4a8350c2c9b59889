"""Whether a training compiles its estimator, and what compiling took as a metric."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators import Estimator, MetaGradient, OptionError, create
from estimators.methods.options import Compilable
from harness.cell import Cell
from harness.matrix import compilation
from harness.probes.compilation import compile_time
from harness.probes.target import Target
from harness.store.events import parse_event
from harness.training import compiling
from harness.training.compiling import Decision, decide
from harness.training.config import TrainingConfig
from harness.training.session import begin
from harness.training.trainer import Trainer
from tests.support.programs import run_as_traced
from tests.support.trainings import numbers

DENSE = {"w": torch.zeros(3, 4)}
SHORT: dict[str, Any] = {"steps": 6, "validate_every": 3, "validation_tasks": 2, "test_tasks": 2}
CELL: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 2, "dtype": "float64"}


class Foreign(Estimator):
    """An estimator without compiled programs."""

    def estimate(self, *_: object) -> MetaGradient:
        raise AssertionError


def decision(estimator: Estimator | str, estimate: Any = None, **changed: Any) -> Decision:
    if isinstance(estimator, str):
        estimator = create(estimator)
    options: dict[str, Any] = {"steps": 10**12, "choice": "auto", "params": DENSE}
    options |= changed
    return decide(estimator, options.pop("params"), estimate or (lambda _: None), **options)


def test_an_estimator_is_compiled_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/c++")
    seen: list[bool] = []

    def estimate(estimator: Estimator) -> None:
        assert isinstance(estimator, Compilable)
        seen.append(estimator.compiled)
        if estimator.compiled and len(seen) > 3:
            raise OptionError("compiled=True: no")

    assert decision("maml", estimate).compiled
    assert seen == [False, False, True]  # compiled as part of the decision
    assert not (refused := decision("maml", estimate)).compiled
    assert "compiled=True: no" in refused.reason
    assert refused.worth_telling
    short = decision("maml", steps=1)
    assert (short.compiled, short.worth_telling) == (False, False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "c++" in decision("maml").reason
    assert not decision("maml").compiled


def test_what_was_asked_for_is_done_without_a_trial() -> None:
    def estimate(_: object) -> None:
        raise AssertionError

    assert decision("maml", estimate, choice="yes").compiled
    for choice in ("auto", "yes", "no"):
        assert decision("maml(compiled=True)", estimate, choice=choice).compiled
    assert not decision("maml", estimate, choice="no").compiled


def test_what_cannot_be_compiled_is_told_where_it_would_pay() -> None:
    for choice, estimator, word in (
        *[(choice, Foreign(), "foreign") for choice in ("auto", "yes")],
        *[(choice, create("hf-maml"), "engine") for choice in ("auto", "yes")],
    ):
        refused = decision(estimator, choice=choice)
        assert (refused.compiled, refused.worth_telling) == (False, True)
        assert word in refused.reason
        assert not decision(estimator, steps=1).worth_telling


def stopped_at(store: Path, config: TrainingConfig, stops: set[int]) -> Trainer:
    """Train, with a new trainer after some of the steps."""
    while True:
        session = begin(store, config)
        assert session.journal
        trainer = Trainer(config, session.journal, session.checkpoint, session.digest)
        steps = trainer.steps()
        if all(trainer.state.step not in stops for _ in steps):
            trainer.train()
            session.journal.end()
            return trainer
        stops = stops - {trainer.state.step}
        steps.close()
        with suppress(OSError):
            session.journal.close()


def test_a_resumed_training_keeps_to_the_decision_of_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    run_as_traced(monkeypatch)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/c++")
    free = compilation.Compilation(seconds=0.0, share=0.1)
    monkeypatch.setattr(compiling, "compilation", lambda _: free)
    monkeypatch.setattr("harness.training.trainer._SAVE_EVERY", -1.0)  # saved at every step
    config = TrainingConfig(Cell.of(estimator="maml", **CELL), **SHORT, bias_every=3)
    whole = stopped_at(tmp_path / "whole", config, set())
    assert whole.state.compiled
    assert any("compiled" in note for note in whole.notes)
    taken = iter([True])
    monkeypatch.setattr(
        "harness.training.trainer.decide", lambda *_, **__: Decision(next(taken), "once")
    )
    stopped = stopped_at(tmp_path / "stopped", config, {1, 4})
    assert stopped.state.compiled
    for name, value in whole.state.params.items():
        assert torch.equal(stopped.state.params[name], value)
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    (journal,) = (tmp_path / "stopped/trainings").glob("*.jsonl")
    events = [parse_event(line) for line in journal.read_bytes().splitlines()]
    (recorded,) = [event for event in events if event and event["event"] == "compilation"]
    assert (recorded["compiled"], recorded["reason"]) == (True, "once")


def test_compile_time_is_that_of_the_programs_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path / "cache"))
    run_as_traced(monkeypatch)
    clock = count(0.0, 1.5)
    monkeypatch.setattr("estimators.programs.making.perf_counter", lambda: next(clock))
    for estimator, expected in {
        "maml": {},
        "maml(compiled=True)": {"compile_time": [1.5]},
        "binom(order=1, compiled=True)": {"compile_time": [3.0]},
    }.items():
        monkeypatch.setattr("estimators.programs.compiled._known", {})
        target = Target(Cell.of(estimator=estimator, **CELL), tmp_path / "reference.pt")
        target.estimate()
        assert compile_time(target) == expected, estimator
