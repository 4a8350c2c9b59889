"""Which estimator to use, what stands out, and what the store holds."""

import streamlit as st

from reports import figures
from reports.markdown import plain
from reports.pages import parts
from reports.tables.advice import advise, verdict
from reports.tables.findings import findings
from reports.tables.overview import contents, failures
from reports.tables.samples import samples
from reports.tables.text import ranking
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: what the filters leave.
    """
    _advice(view)
    sentences = findings(view.snapshot.cells)
    if sentences:
        st.header("Findings")
        st.markdown("\n".join(f"- {plain(one)}" for one in sentences))
    _store(view)


def _advice(view: View) -> None:
    st.header("What should I use?")
    if view.here.empty:
        st.info("No cell is left by the filters.")
        return
    row = view.here.iloc[0]
    st.markdown(
        plain(
            f"For {row['task']} with {row['model']} at depth K={row['depth']} on {row['device']}, "
            f"{row['rest']}. The filters at the side change this."
        )
    )
    memory, bias, time = st.columns(3)
    advice = advise(
        view.here,
        errors=samples(view.snapshot.long, view.here, "bias"),
        memory=memory.number_input(
            "Peak memory, at most (MiB)",
            0.0,
            value=None,
            key="memory",
            bind="query-params",
            placeholder="any",
            format="%g",
        ),
        bias=bias.number_input(
            "Bias, at most (relative error)",
            0.0,
            value=None,
            key="bias",
            bind="query-params",
            placeholder="any",
            format="%g",
        ),
        time=time.number_input(
            "Time, at most (inner gradients)",
            0.0,
            value=None,
            key="time",
            bind="query-params",
            placeholder="any",
            format="%g",
        ),
    )
    st.success(plain(verdict(advice)))
    parts.grid(ranking(advice))
    parts.figures(figures.bias_against_memory(view.here), figures.bias_against_time(view.here))
    parts.explained("bias", "peak_memory", "time_ratio")


def _store(view: View) -> None:
    st.header("In the store")
    held = contents(view.snapshot.cells, view.snapshot.long)
    for column, (name, value) in zip(st.columns(len(held)), held.items(), strict=True):
        column.metric(name, value)
    failed = failures(view.version)
    if not failed.empty:
        st.subheader("What did not end well")
        parts.grid(failed)
