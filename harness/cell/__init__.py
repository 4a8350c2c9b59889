"""Cells: the points of the benchmark matrix."""

from harness.cell.cell import DTYPES, MOST_TRAINED, Cell

__all__ = ["DTYPES", "MOST_TRAINED", "Cell"]
