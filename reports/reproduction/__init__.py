"""The figures and tables of the binomial method's paper, made from a store, beside its numbers.

One module each, with a function that makes it: `PIECES` has them all. The paper is Zhang et al.,
"Binomial Gradient-Based Meta-Learning for Enhanced Meta-Gradient Estimation", ICLR 2026, arXiv
2604.13263.
"""

from collections.abc import Callable
from dataclasses import replace

from harness.commands.reproduce import Scale
from reports.reproduction import fig2, fig3a, fig3b, fig4, fig5, table1, table2
from reports.reproduction.piece import Measurements, Piece

PIECES: dict[str, Callable[[Measurements, Scale], Piece | None]] = {
    "fig2": fig2.piece,
    "fig3a": fig3a.piece,
    "fig3b": fig3b.piece,
    "fig4": fig4.piece,
    "fig5": fig5.piece,
    "table1": table1.piece,
    "table2": table2.piece,
}
"""By name; each returns None where the store has no measurements for it."""


def pieces(measured: Measurements, scale: Scale) -> list[Piece]:
    """Return every figure and table for which a store has measurements, in the paper's order.

    The bounds of Figure 2 need none.
    """
    results: list[Piece] = []
    for name, make in PIECES.items():
        if piece := make(measured, scale):
            results.append(replace(piece, notes=[*piece.notes, *measured.about(name, scale)]))
    return results
