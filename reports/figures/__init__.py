"""The figures, one function each; dashboard and static report use the same ones.

Every function takes rows of `reports.tables.cells` that may stand in one figure, and returns a
chart as wide as the page allows; small multiples have a width of their own.
"""

from reports.figures.accuracy import learning_curves, paired_differences, test_accuracy
from reports.figures.bias import (
    bias_against_depth,
    bias_against_order,
    bias_along_training,
    bias_by_task,
    cosine,
)
from reports.figures.cost import (
    cost_against_model,
    cost_against_order,
    memory_against_depth,
    phases,
    time_against_depth,
    work_against_depth,
    work_and_serial_depth,
)
from reports.figures.history import history
from reports.figures.parallel import time_against_serial_depth, time_over_exact
from reports.figures.reproduced import bias_by_mini_batch, bounds_against_order
from reports.figures.samples import samples_in_order
from reports.figures.style import HEIGHT, PALETTE, Chart, Rows, look
from reports.figures.tradeoffs import bias_against_memory, bias_against_time, tradeoff

__all__ = [
    "HEIGHT",
    "PALETTE",
    "Chart",
    "Rows",
    "bias_against_depth",
    "bias_against_memory",
    "bias_against_order",
    "bias_against_time",
    "bias_along_training",
    "bias_by_mini_batch",
    "bias_by_task",
    "bounds_against_order",
    "cosine",
    "cost_against_model",
    "cost_against_order",
    "history",
    "learning_curves",
    "look",
    "memory_against_depth",
    "paired_differences",
    "phases",
    "samples_in_order",
    "test_accuracy",
    "time_against_depth",
    "time_against_serial_depth",
    "time_over_exact",
    "tradeoff",
    "work_against_depth",
    "work_and_serial_depth",
]
