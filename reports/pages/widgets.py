"""The parts that all pages share."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby

import pandas as pd
import streamlit as st

from harness.matrix.metrics import METRICS
from harness.store.events import Problem
from harness.support.markdown import plain
from reports.figures.style import Chart, svg
from reports.sections import SECTIONS, Answer, Block, Command, joined, parts_of
from reports.tables.text import as_text
from reports.tables.view import View

_LONG = 40  # rows, beyond which a table scrolls


def sections(page: str, view: View) -> None:
    """Show the sections of a page, and explain their metrics below."""
    listed = [section for section in SECTIONS if section.page == page]
    if view.here.empty and any(section.scope != "store" for section in listed):
        st.info("No cell matches the filters.")
    for number, (section, content) in enumerate(joined(listed, view)):
        if section.title and (content or section.empty):
            st.header(section.title)
        if not content and section.empty:
            st.info(section.empty)
        blocks(content, key=f"{page}-{number}")
    if names := dict.fromkeys(name for section in listed for name in section.metrics):
        explained(*names)


def blocks(content: Iterable[Block], *, key: str) -> None:
    """Show blocks; those below a folded heading in an expander."""
    for place, (heading, part) in enumerate(parts_of(content)):
        if heading is None:
            _blocks(part, f"{key}-{place}")
        elif heading.folded:
            with st.expander(heading.text):
                _blocks(part, f"{key}-{place}")
        else:
            st.subheader(plain(heading.text))
            _blocks(part, f"{key}-{place}")


def _blocks(content: Sequence[Block], key: str) -> None:
    for number, (is_figure, run) in enumerate(groupby(content, callable)):
        if is_figure:
            figures(*run, key=f"{key}-{number}")  # type: ignore[arg-type]
            continue
        for block in run:
            match block:
                case Answer(text, is_yes):
                    (st.success if is_yes else st.warning)(plain(text))
                case Command(text):
                    st.code(text, language="shell", wrap_lines=True)
                case pd.DataFrame():
                    table(block)
                case dict():
                    st.markdown(" · ".join(f"{name} **{plain(it)}**" for name, it in block.items()))
                case list():
                    st.markdown("\n".join(f"- {plain(line)}" for line in block))
                case str():
                    st.markdown(plain(block))


def figures(*charts: Callable[[], Chart], key: str = "") -> None:
    """Show figures, two side by side where there is room, each with a button that saves it."""
    for start in range(0, len(charts), 2):
        pair = charts[start : start + 2]
        places = enumerate(zip(st.columns(len(pair)), pair, strict=True), start)
        for place, (column, chart) in places:
            # Tests check figures against the schema; here it would take longer than all the rest.
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
                key=f"svg-{key}-{place}-{name}",
                on_click="ignore",
            )


def problems(faults: Sequence[Problem]) -> None:
    """Show which files could not be read: the first, and the others folded."""
    if not faults:
        return
    first, *others = faults
    st.warning(plain(str(first)))
    if others:
        with st.expander(f"{len(others)} more that could not be read"):
            for problem in others:
                st.markdown(plain(str(problem)))


def table(rows: pd.DataFrame) -> None:
    """Show a table: all text of a short one, a long one to scroll and sort."""
    if len(rows) > _LONG:
        grid(rows)
        return
    texts = [[plain(value) for value in row] for row in as_text(rows)]
    st.table(pd.DataFrame(texts, columns=[plain(str(name)) for name in rows]), hide_index=True)


def grid(rows: pd.DataFrame) -> None:
    """Show a table to scroll and sort, all rows of a short one, numbers with four digits."""
    numbers = {
        name: st.column_config.NumberColumn(format="%.4g")
        for name in rows.select_dtypes("float").columns
    }
    height = 35 * (min(len(rows), 25) + 1) + 3  # pixels; Streamlit would cut after ten rows
    st.dataframe(rows, hide_index=True, column_config=numbers, height=height, placeholder="")


def explained(*names: str) -> None:
    """Explain metrics."""
    with st.expander("What is plotted"):
        for name in names:
            metric = METRICS[name]
            st.markdown(f"**{plain(metric.label)}**: {plain(metric.about)}")
        st.markdown(
            "Bars are 95 % intervals of the mean over tasks, or the quartiles of times. "
            "A number that is the same at every run has none."
        )
