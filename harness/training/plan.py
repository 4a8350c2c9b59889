"""From presets and options to the list of recipes."""

from dataclasses import fields
from itertools import product
from typing import Any

from estimators.base.errors import OptionError
from harness.cell import Cell
from harness.environment.devices import missing_device
from harness.support.presets import about, entry
from harness.training.config import TrainingConfig

_OPTIONS = {
    **{"estimators": "--estimator", "settings": "--task and --model"},
    **{"depths": "--depth", "seeds": "--seeds"},
}
_OF_CELL = ("step_size", "device", "dtype")
_OF_RECIPE = tuple(field.name for field in fields(TrainingConfig) if field.name != "cell")


def presets() -> dict[str, str]:
    """Returns the names of all presets with a sentence about each."""
    return about("harness.training")


def preset(name: str) -> dict[str, Any]:
    """Reads a preset from presets.toml.

    Raises:
        OptionError: there is no such preset.
    """
    return entry("harness.training", name)


def recipes(named: dict[str, Any]) -> list[TrainingConfig]:
    """Returns all recipes of a preset, or of what a user named: seed by seed.

    Raises:
        OptionError: something is missing, wrong, or cannot be trained here.
    """
    if missing := [_OPTIONS[name] for name in _OPTIONS if not named.get(name)]:
        raise OptionError(f"nothing to train: name a preset, or {' and '.join(missing)}")
    of_cell = {name: value for name, value in named.items() if name in _OF_CELL}
    of_recipe = {name: value for name, value in named.items() if name in _OF_RECIPE}
    found = [
        TrainingConfig(
            Cell.of(estimator=estimator, task=task, model=model, depth=depth, seed=seed, **of_cell),
            **of_recipe,
        )
        for seed, (task, model), depth, estimator in product(
            *(range(named["seeds"]), named["settings"], named["depths"], named["estimators"])
        )
    ]
    for recipe in found:
        if hindrance := missing_device(recipe.cell.device) or recipe.cell.unsupported_reason():
            raise OptionError(hindrance)
    return list(dict.fromkeys(found))
