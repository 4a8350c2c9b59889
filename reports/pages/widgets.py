"""What all pages are made of."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from harness.matrix.metrics import METRICS
from harness.store.events import Problem
from harness.store.trainings import FOLDER, trainings
from harness.support.markdown import plain
from reports.figures.save import svg
from reports.figures.style import Chart
from reports.tables.snapshot import Stamp, stamp_of
from reports.tables.text import as_text


def figures(*charts: Callable[[], Chart], part: str = "") -> None:
    """Shows figures, two side by side where there is room, each with a button that saves it."""
    for start in range(0, len(charts), 2):
        pair = charts[start : start + 2]
        places = enumerate(zip(st.columns(len(pair)), pair, strict=True), start)
        for place, (column, chart) in places:
            # Tests hold figures against the schema; Altair would do so again, which takes longest.
            spec = chart().to_dict(validate=False)
            column.vega_lite_chart(spec)
            name = re.sub(r"\W+", "-", spec["title"]["text"].lower())
            column.download_button(
                "SVG",
                partial(svg, spec),
                f"{name}.svg",
                "image/svg+xml",
                type="tertiary",
                icon=":material/download:",
                key=f"svg-{part}-{place}-{name}",
                on_click="ignore",
            )


def problems(found: Sequence[Problem]) -> None:
    """Tells of files that could not be read: the first, and the others folded."""
    if not found:
        return
    first, *others = found
    st.warning(plain(str(first)))
    if others:
        with st.expander(f"{len(others)} more that could not be read"):
            for problem in others:
                st.markdown(plain(str(problem)))


def trainings_in(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Returns the trainings of a store, and what could not be read; remembered for all readers."""
    return _trainings(str(store), stamp_of((store / FOLDER).glob("*.jsonl")))


@st.cache_resource(max_entries=2, show_spinner="Reading trainings")
def _trainings(store: str, stamp: Stamp) -> tuple[pd.DataFrame, list[Problem]]:
    """Reads the trainings of a store; the stamp is there for the cache."""
    del stamp
    return trainings(Path(store))


def grid(table: pd.DataFrame) -> None:
    """Shows a table, all rows of a short one, numbers with three digits."""
    numbers = {
        name: st.column_config.NumberColumn(format="%.3g")
        for name in table.select_dtypes("float").columns
    }
    height = 35 * (min(len(table), 25) + 1) + 3  # pixels; Streamlit would cut after ten rows
    st.dataframe(table, hide_index=True, column_config=numbers, height=height, placeholder="")


def sentences(table: pd.DataFrame) -> None:
    """Shows a short table whose texts are to be read to their end, numbers with three digits."""
    rows = [[plain(value) for value in row] for row in as_text(table)]
    st.table(pd.DataFrame(rows, columns=[plain(str(name)) for name in table]), hide_index=True)


def explained(*names: str) -> None:
    """Says what metrics are."""
    with st.expander("What is plotted"):
        for name in names:
            metric = METRICS[name]
            st.markdown(f"**{plain(metric.label)}**: {plain(metric.about)}")
        st.markdown(
            "Bars are 95 % intervals of the mean over tasks, or the quartiles of times. "
            "A number that is the same at every run has none."
        )
