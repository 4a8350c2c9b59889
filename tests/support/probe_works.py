"""Estimates whose cost is measured."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from estimators import create
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem

SINUSOID: dict[str, Any] = {"task": "sinusoid", "model": "mlp-40-40"}


def work_of(estimator: str, depth: int, setting: dict[str, Any]) -> Callable[[], object]:
    cell = Cell.of(estimator=estimator, depth=depth, **setting)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    return partial(create(estimator), problem, params)
