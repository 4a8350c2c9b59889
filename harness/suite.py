"""The functions that the asv suite calls; within a version their meaning never changes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from estimators import OptionError, create
from harness.cell import Cell
from harness.matrix.plan import Axes, expand
from harness.matrix.problems import bilevel_problem
from harness.running.executor import Settings
from harness.running.resume import begin
from harness.running.runner import run
from harness.store.runs import read_run

VERSION = 1


def measure(axes: dict[str, Any], store: Path, *, version: int) -> dict[str, dict[str, Any]]:
    """Measure a matrix and return plain data.

    Args:
        axes: "estimators", "depths", "models" (pairs "task model"), "devices"; lists.
        store: folder of results, in which the run is journalled too.
        version: of this signature: 1.

    Returns:
        By `key(...)` of each cell: "status", "reason" and "samples" by metric.

    Raises:
        OptionError: this code has no such version.
    """
    _check(version)
    planned = expand(
        Axes(
            settings=tuple((task, model) for task, model in map(str.split, axes["models"])),
            depths=tuple(axes["depths"]),
            estimators=tuple(axes["estimators"]),
            devices=tuple(axes["devices"]),
        )
    )
    settings = Settings()
    session = begin(store, planned, samples=settings.samples)
    run(planned, session, settings)
    return {
        key(
            estimator=cell.axes["estimator"],
            depth=cell.axes["depth"],
            model=f"{cell.axes['task']} {cell.axes['model']}",
            device=cell.axes["device"],
        ): {"status": str(cell.status), "reason": cell.reason, "samples": cell.samples}
        for cell in read_run(session.journal.path).cells
    }


def headline(estimator: str, *, version: int) -> Callable[[], object]:
    """Return one estimate on the sinusoid at depth 5, for asv to time.

    Args:
        estimator: specification.
        version: of this signature: 1.

    Raises:
        OptionError: this code has no such version.
    """
    _check(version)
    cell = Cell.of(estimator=estimator, task="sinusoid", model="mlp-40-40", depth=5)
    problem, params = bilevel_problem(cell, 0, dtype=torch.float32, device="cpu")
    return partial(create(estimator), problem, params)


def _check(version: int) -> None:
    if version != VERSION:
        raise OptionError(f"version {version} of the suite is not known here; there is {VERSION}")


def key(*, estimator: str, depth: int, model: str, device: str) -> str:
    """Return the key of a cell in the result of `measure`; the model is "task model"."""
    return f"{model} K{depth} {estimator} {device}"
