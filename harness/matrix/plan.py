"""From presets and axes to the list of cells, each with the reason for which it is skipped."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from estimators.base.errors import OptionError
from estimators.base.registry import Spec
from harness.cell import Cell
from harness.environment.gpus import missing_device
from harness.support.presets import entry

ALL_ORDERS = "all"


@dataclass(frozen=True)
class Axes:
    """The axes of a matrix.

    Attributes:
        settings: pairs of task and model.
        ordered: names of estimators that are taken at every one of `orders`.
        orders: L, or "all" for 0..K.
        step_size: alpha; None for each task's own.
        trained: steps of exact meta-training before anything is measured.
        parts: matrices that this one consists of, in the place of axes; in a preset, their names.
    """

    settings: tuple[tuple[str, str], ...] = ()
    depths: tuple[int, ...] = ()
    estimators: tuple[str, ...] = ()
    ordered: tuple[str, ...] = ()
    orders: tuple[int, ...] | str = ()
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("float32",)
    seeds: tuple[int, ...] = (0,)
    num_tasks: int = 8
    step_size: float | None = None
    trained: tuple[int, ...] = (0,)
    parts: tuple["Axes", ...] = ()


@dataclass(frozen=True)
class Planned:
    """A cell, and why it cannot be measured; empty when it can."""

    cell: Cell
    skip: str = ""


def preset(name: str) -> Axes:
    """Read a preset from presets.toml."""
    axes = entry("harness.matrix", name)
    parts = tuple(map(preset, axes.pop("parts", ())))
    return Axes(parts=parts, **{key: _frozen(value) for key, value in axes.items()})


def expand(axes: Axes, missing: Callable[[str], str | None] = missing_device) -> list[Planned]:
    """Return every cell of a matrix, in the order of its axes; nothing is filtered out."""
    planned = {plan.cell: plan for part in axes.parts for plan in expand(part, missing)}
    for (task, model), depth, device, dtype, seed, trained in product(
        axes.settings, axes.depths, axes.devices, axes.dtypes, axes.seeds, axes.trained
    ):
        for estimator in _estimators(axes, depth):
            cell = Cell.of(
                estimator=estimator,
                task=task,
                model=model,
                depth=depth,
                step_size=axes.step_size,
                device=device,
                dtype=dtype,
                seed=seed,
                num_tasks=axes.num_tasks,
                trained=trained,
            )
            if cell not in planned:
                skip = missing(cell.device) or cell.unsupported_reason() or ""
                planned[cell] = Planned(cell, skip)
    if not planned:
        raise OptionError("nothing to measure: name a task, a model, a depth and an estimator")
    return list(planned.values())


def setting(task: str | None, model: str | None) -> list[tuple[str, str]]:
    """Return the only setting of a user who named a task and a model; none for neither."""
    if (task is None) != (model is None):
        raise OptionError("--task and --model go together, as --task sinusoid --model mlp-40-40")
    return [(task, model)] if task is not None and model is not None else []


def override(axes: Axes, *, task: str | None, model: str | None, **changes: Any) -> Axes:
    """Put what a user named in the place of a preset's axes."""
    if axes.parts:
        parts = (override(part, task=task, model=model, **changes) for part in axes.parts)
        return Axes(parts=tuple(parts))
    changes["settings"] = setting(task, model)
    named: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in changes.items()
        if value not in (None, [])
    }
    if "estimators" in named:
        named["ordered"] = ()
    return replace(axes, **named)


def refuse_impossible(planned: list[Planned], *, named: bool) -> None:
    """Refuse a plan of which nothing can be measured."""
    groups: dict[str, list[str]] = {}
    for plan in planned:
        groups.setdefault(plan.cell.estimator if named else "", []).append(plan.skip)
    for skips in groups.values():
        if all(skips):
            raise OptionError(f"nothing to measure: {Counter(skips).most_common(1)[0][0]}")


def _estimators(axes: Axes, depth: int) -> list[str]:
    orders = range(depth + 1) if axes.orders == ALL_ORDERS else axes.orders
    ordered = [str(Spec(name, {"order": order})) for name in axes.ordered for order in orders]
    return [*axes.estimators, *ordered]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
