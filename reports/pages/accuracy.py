"""What estimators' bias costs in the end: learning curves and results on held-out tasks."""

import pandas as pd
import streamlit as st

from harness.results.trainings import trainings
from reports import figures
from reports.markdown import plain
from reports.pages import parts
from reports.quantities import QUANTITIES
from reports.tables.accuracy import confined, curves, differences, settings, test_results
from reports.tables.view import View

_METRICS = ("accuracy", "outer_loss")


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: what the filters leave.
    """
    rows, problems = trainings(view.snapshot.store)
    for problem in problems:
        st.warning(plain(str(problem)))
    left = settings(confined(rows, view.here, view.families))
    if not left:
        st.info("Nothing was meta-trained with this task, model, depth and device.")
    for setting in left:
        _setting(setting)
    parts.explained(*_METRICS)


def _setting(rows: pd.DataFrame) -> None:
    first = rows.iloc[0]
    st.markdown(plain(f"{first['task']}, {first['model']}, K={first['depth']}: {first['outer']}"))
    for metric in [name for name in _METRICS if (rows["metric"] == name).any()]:
        st.header(QUANTITIES[metric].label.capitalize())
        compared = differences(rows, metric)
        parts.figures(
            figures.learning_curves(curves(rows, metric, "validation")),
            figures.learning_curves(curves(rows, metric, "train")),
            figures.test_accuracy(test_results(rows, metric)),
            figures.paired_differences(compared),
        )
        st.markdown("\n".join(f"- {plain(one)}" for one in compared["text"]))
