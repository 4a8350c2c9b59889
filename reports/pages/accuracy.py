"""What estimators' bias costs in the end: learning curves and results on held-out tasks."""

from functools import partial

import pandas as pd
import streamlit as st

from harness.matrix.metrics import METRICS
from harness.support.markdown import plain
from reports import figures
from reports.pages import widgets
from reports.tables.accuracy import JUDGED, confined, curves, differences, settings, test_results
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    rows, problems = widgets.trainings_in(view.snapshot.store)
    widgets.problems(problems)
    st.markdown("Trainings of all commits and machines; each seed counts once.")
    left = settings(confined(rows, view.here, view.families))
    if not left:
        if not view.here.empty:
            st.info("Nothing was meta-trained with this task, model, depth and device.")
        left = _chosen(settings(rows))
    for number, setting in enumerate(left):
        _setting(setting, number)
    widgets.explained(*JUDGED)


def _chosen(every: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Lets a reader choose among trainings where the filters leave none."""
    names = {_name(rows): rows for rows in every}
    chosen = st.selectbox("What was", [*names]) if names else None
    return [names[chosen]] if chosen else []


def _name(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"{first['task']}, {first['model']}, K={first['depth']}: {first['outer']}"


def _setting(rows: pd.DataFrame, number: int) -> None:
    st.markdown(plain(_name(rows)))
    for metric in [name for name in JUDGED if (rows["metric"] == name).any()]:
        st.header(METRICS[metric].label.capitalize())
        compared = differences(rows, metric)
        widgets.figures(
            partial(figures.learning_curves, curves(rows, metric, "validation")),
            partial(figures.learning_curves, curves(rows, metric, "train")),
            partial(figures.test_accuracy, test_results(rows, metric)),
            partial(figures.paired_differences, compared),
            part=f"{number}-{metric}",
        )
        st.markdown("\n".join(f"- {plain(one)}" for one in compared["text"]))
