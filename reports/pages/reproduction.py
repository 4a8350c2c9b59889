"""The figures and tables of the binomial method's paper, as far as this store has them."""

import streamlit as st

from harness.markdown import plain
from harness.reproduction import SCALES
from reports.pages import parts
from reports.reproduction import pieces
from reports.reproduction.piece import Found
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page.

    Args:
        view: its store is looked at, whatever the filters leave.
    """
    rows, problems = parts.trainings_in(view.snapshot.store)
    parts.problems(problems)
    found = Found(view.snapshot, rows)
    made = [(scale, piece) for scale in SCALES for piece in pieces(found, scale)]
    if not made:
        st.info("Nothing yet: run `metagrad reproduce all`, which takes an hour on two cores.")
    for scale, piece in made:
        st.header(plain(f"{piece.name}: {piece.title}"))
        st.markdown(f"`metagrad reproduce {piece.name} --scale {scale}`")
        st.markdown("\n".join(f"- {plain(line)}" for line in piece.told))
        parts.figures(*piece.charts, part=f"{piece.name}-{scale}")
        parts.grid(piece.table)
