"""References of a group of cells: exact meta-gradients in float64, cached by content."""

import inspect
import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch

import estimators
from estimators import Params, create
from estimators.base.tree import norm
from harness.cell import Cell
from harness.matrix.outcome import Diverged
from harness.matrix.pretraining import losses_at
from harness.matrix.problems import bilevel_problems, origin
from harness.probes import curvature
from harness.support import cache

_SOURCES = (
    Path(inspect.getfile(estimators)).parent,
    Path(inspect.getfile(curvature)),
    Path(__file__),
)


@dataclass(frozen=True)
class Reference:
    """The exact meta-gradient and the `largest_curvature` of each task of a group."""

    gradients: list[Params]
    curvature: list[float]


def save_reference(group: Cell, path: Path) -> None:
    """Compute the references of a group, or take them from the cache, into a file."""
    problems, theta = bilevel_problems(
        group, range(group.num_tasks), dtype=torch.float64, device=group.device
    )
    content = [part for problem in problems for part in losses_at(problem, theta)]
    machine = cache.arithmetic(group.device)
    key = cache.digest(origin(group), *_SOURCES, machine, *content)
    stored = cache.load("reference", key)
    if stored is None:
        gradients = [create("adjoint")(problem, theta).gradient for problem in problems]
        for index, gradient in enumerate(gradients):
            if not math.isfinite(norm(gradient)):
                raise Diverged(f"the exact meta-gradient of task {index} is not finite")
        sizes = [curvature.largest_curvature(problem, theta) for problem in problems]
        stored = {"gradients": gradients, "curvature": sizes}
        cache.save("reference", key, stored)
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    path.write_bytes(buffer.getvalue())  # unlike torch, it says so where the disk is full


def load_reference(path: Path, device: str) -> Reference:
    """Read what `save_reference` wrote."""
    return Reference(**torch.load(path, map_location=device, weights_only=True))
