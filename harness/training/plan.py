"""From presets and options to the list of trainings."""

from dataclasses import fields
from itertools import product
from typing import Any

from estimators.base.errors import OptionError
from harness.cell import Cell
from harness.environment.gpus import missing_device
from harness.support.presets import entry
from harness.training.config import TrainingConfig

_REQUIRED = {"estimators": "--estimator", "settings": "--task and --model", "depths": "--depth"}
_OUTER = tuple(field.name for field in fields(TrainingConfig) if field.name != "cell")


def preset(name: str) -> dict[str, Any]:
    """Read a preset from presets.toml."""
    return entry("harness.training", name)


def configs(values: dict[str, Any]) -> list[TrainingConfig]:
    """Return all trainings of a preset, or of a user's values of the same names: seed by seed."""
    if missing := [option for name, option in _REQUIRED.items() if not values.get(name)]:
        raise OptionError(f"nothing to train: name a preset, or {' and '.join(missing)}")
    outer = {name: value for name, value in values.items() if name in _OUTER}
    axes = product(
        values.get("seeds", [0]),
        values["settings"],
        values["depths"],
        values.get("devices", ["cpu"]),
        values.get("dtypes", ["float32"]),
        values["estimators"],
    )
    planned: dict[TrainingConfig, None] = {}
    for seed, (task, model), depth, device, dtype, estimator in axes:
        cell = Cell.of(
            estimator=estimator,
            task=task,
            model=model,
            depth=depth,
            step_size=values.get("step_size"),
            device=device,
            dtype=dtype,
            seed=seed,
        )
        if reason := missing_device(cell.device) or cell.unsupported_reason():
            raise OptionError(reason)
        planned[TrainingConfig(cell, **outer)] = None
    return list(planned)
