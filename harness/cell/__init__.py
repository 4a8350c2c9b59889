"""Cells: the points of the benchmark matrix."""

from harness.cell.axes import Axis
from harness.cell.cell import AXES, DTYPES, MOST_TRAINED, Cell

__all__ = ["AXES", "DTYPES", "MOST_TRAINED", "Axis", "Cell"]
