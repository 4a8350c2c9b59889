"""The dashboard's pages of meta-trainings."""

import math
from pathlib import Path
from typing import Any

import pytest
import streamlit as st

from harness.store.trainings import Split, Training, TrainingJournal
from tests.support import reproduced
from tests.support.app_pages import PAGES, figures, opened, text
from tests.support.stores import COMMITS, environment, write_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    st.cache_resource.clear()
    monkeypatch.setenv("METAGRAD_STORE", str(tmp_path))
    return tmp_path


def train(store: Path, estimator: str, mean: float, seed: int = 0, **changed: Any) -> None:
    """Journals a training on the sinusoid at depth 5; `splits` are those that it has."""
    journal = TrainingJournal.create(store)
    splits = changed.pop("splits", ("validation", "test"))
    setting: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40", "depth": 5}
    setting |= {"step_size": 0.01, "device": "cpu", "dtype": "float32", "seed": seed}
    setting |= {"outer": {"optimiser": "adam", "steps": 20}} | changed
    journal.start(environment(COMMITS[0]), Training(estimator, **setting))
    evaluated: dict[Split, tuple[int, ...]] = {"validation": (0, 10, 20), "test": (20,)}
    for split, steps in evaluated.items():
        for step in steps if split in splits else ():
            values = [mean, mean - 0.1, mean + 0.01 * seed + 0.001 * step]
            journal.evaluation(step, split, {"accuracy": values}, seconds=1.0)
    journal.end()


def test_accuracy_shows_trainings(store: Path) -> None:
    write_store(store)
    assert "Nothing was meta-trained" in opened("Accuracy").info[0].value
    for seed in range(2):
        train(store, "maml", 0.8, seed)
        train(store, "fomaml", 0.7, seed)
    at = opened("Accuracy", task="sinusoid")
    assert figures(at) == 4
    assert "fomaml is 10.0 points below maml" in text(at)
    # What all are compared to stays, whichever are chosen.
    at = opened("Accuracy", task="sinusoid", estimators="fomaml")
    assert "fomaml is 10.0 points below maml" in text(at)
    (store / "trainings" / "x.jsonl").write_text("no JSON\n")
    (store / "trainings" / "y.jsonl").write_text("no JSON\n")
    at = opened("Accuracy", task="sinusoid")
    assert len(at.warning) == 1
    assert figures(at) == 4


def test_accuracy_shows_several_settings_and_what_is_incomplete(store: Path) -> None:
    write_store(store)
    train(store, "maml", 0.8)
    train(store, "maml", 0.7, step_size=0.1)
    train(store, "maml", 0.7, step_size=0.2, splits=("test",))
    train(store, "maml", math.nan, step_size=0.3)
    assert figures(opened("Accuracy", task="sinusoid")) == 16


def test_accuracy_shows_others_where_the_filters_leave_none(store: Path) -> None:
    write_store(store)
    train(store, "maml", 0.8, model="mlp-100-100")
    train(store, "maml", 0.7, model="mlp-256-256-256")
    at = opened("Accuracy", task="sinusoid")
    assert "Nothing was meta-trained" in at.info[0].value
    (box,) = at.main.selectbox
    assert {name.split(",")[1] for name in box.options} == {" mlp-100-100", " mlp-256-256-256"}
    assert figures(at) == 4


@pytest.mark.parametrize("title", PAGES)
def test_trainings_without_a_run_are_shown(store: Path, title: str) -> None:
    train(store, "maml", 0.8)
    train(store, "fomaml", 0.7)
    at = opened(title)
    if title == "Accuracy":
        assert figures(at) == 4
        assert "fomaml is 10.0 points below maml" in text(at)
    else:
        assert at.info


def test_the_papers_figures_are_shown(store: Path) -> None:
    write_store(store)
    assert "metagrad reproduce all" in opened("Reproduction").info[0].value
    reproduced.write_all(store)
    at = opened("Reproduction")
    assert figures(at) == 3 + 1 + 5 + 2 + 4 + 2 + 1
    assert len(at.dataframe) == 7
    assert "fomaml is 2.0 points below maml" in text(at)
