"""What the bias of estimators costs in the end: learning curves and results on held-out tasks."""

from dataclasses import replace

import streamlit as st

from reports.pages import widgets
from reports.tables.accuracy import matching, setting_text, settings
from reports.tables.view import View


def show(view: View) -> None:
    """Show the page."""
    every, _ = view.snapshot.trainings
    st.markdown("Trainings of all commits and machines; each seed counts once.")
    rows = every if view.here.empty else matching(every, view.here, view.families)
    if rows.empty and not every.empty:
        st.info("Nothing was meta-trained with this task, model, depth and device.")
        names = {": ".join(setting_text(setting)): setting for setting in settings(every)}
        rows = names[st.selectbox("Other trainings", [*names])]
    widgets.sections("Accuracy", replace(view, trainings=rows))
