"""What estimators' bias costs in the end: learning curves and results on held-out tasks."""

from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from harness.markdown import plain
from harness.results.store import Problem
from harness.results.trainings import FOLDER, trainings
from reports import figures
from reports.pages import parts
from reports.quantities import QUANTITIES
from reports.tables.accuracy import JUDGED, confined, curves, differences, settings, test_results
from reports.tables.snapshot import Stamp, stamp_of
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: what the filters leave.
    """
    store = view.snapshot.store
    rows, problems = _trainings(str(store), stamp_of((store / FOLDER).glob("*.jsonl")))
    parts.problems(problems)
    st.markdown("Trainings of all commits and machines; each seed counts once.")
    left = settings(confined(rows, view.here, view.families))
    if not left:
        st.info("Nothing was meta-trained with this task, model, depth and device.")
    for number, setting in enumerate(left):
        _setting(setting, number)
    parts.explained(*JUDGED)


def _setting(rows: pd.DataFrame, number: int) -> None:
    first = rows.iloc[0]
    st.markdown(plain(f"{first['task']}, {first['model']}, K={first['depth']}: {first['outer']}"))
    for metric in [name for name in JUDGED if (rows["metric"] == name).any()]:
        st.header(QUANTITIES[metric].label.capitalize())
        compared = differences(rows, metric)
        parts.figures(
            partial(figures.learning_curves, curves(rows, metric, "validation")),
            partial(figures.learning_curves, curves(rows, metric, "train")),
            partial(figures.test_accuracy, test_results(rows, metric)),
            partial(figures.paired_differences, compared),
            part=f"{number}-{metric}",
        )
        st.markdown("\n".join(f"- {plain(one)}" for one in compared["text"]))


@st.cache_resource(max_entries=2, show_spinner="Reading trainings")
def _trainings(store: str, stamp: Stamp) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads the trainings of a store; the stamp is there for the cache."""
    del stamp
    return trainings(Path(store))
