"""The figures and tables of papers, made from a store, beside the papers' numbers.

One module each, with a function that makes it: `PIECES` has them all.
"""

from collections.abc import Callable
from dataclasses import replace

from harness.commands.reproduce import EXPERIMENTS, Scale
from reports.reproduction import fig2, fig3a, fig3b, fig4, fig5, one_step, table1, table2
from reports.reproduction.piece import Measurements, Piece

PIECES: dict[str, Callable[[Measurements, Scale], Piece | None]] = {
    "fig2": fig2.piece,
    "fig3a": fig3a.piece,
    "fig3b": fig3b.piece,
    "fig4": fig4.piece,
    "fig5": fig5.piece,
    "table1": table1.piece,
    "table2": table2.piece,
    "one-step": one_step.piece,
}
"""By name; each returns None where the store has no measurements for it."""


def pieces(measured: Measurements, scale: Scale) -> list[Piece]:
    """Return every figure and table for which a store has measurements, in the papers' order.

    The bounds of Figure 2 need none.
    """
    results: list[Piece] = []
    for name, make in PIECES.items():
        if scale in EXPERIMENTS[name] and (piece := make(measured, scale)):
            results.append(replace(piece, notes=[*piece.notes, *measured.about(name, scale)]))
    return results
