"""The figures and tables of the binomial method's paper, as far as this store has them."""

import streamlit as st

from harness.commands.reproduce import SCALES
from harness.support.markdown import plain
from reports.pages import widgets
from reports.reproduction import pieces
from reports.reproduction.piece import Found
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    rows, problems = widgets.trainings_in(view.snapshot.store)
    widgets.problems(problems)
    found = Found(view.snapshot, rows)
    made = [(scale, piece) for scale in SCALES for piece in pieces(found, scale)]
    if not made:
        st.info("Nothing yet: run `metagrad reproduce all`, which takes an hour on two cores.")
    for scale, piece in made:
        st.header(plain(f"{piece.name}: {piece.title}"))
        st.markdown(f"`metagrad reproduce {piece.name} --scale {scale}`")
        st.markdown("\n".join(f"- {plain(line)}" for line in piece.told))
        widgets.figures(*piece.charts, part=f"{piece.name}-{scale}")
        widgets.grid(piece.table)
