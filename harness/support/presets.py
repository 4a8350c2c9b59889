"""Presets: named settings in the presets.toml of a package."""

import tomllib
from importlib.resources import files
from typing import Any

from estimators.base.errors import OptionError
from estimators.base.registry import unknown


def about(package: str) -> dict[str, str]:
    """Return a sentence about each preset, by name."""
    return {name: entry["about"] for name, entry in _entries(package).items()}


def entry(package: str, name: str) -> dict[str, Any]:
    """Return the settings of a preset, by the names in its file.

    Raises:
        OptionError: there is no such preset.
    """
    entries = _entries(package)
    if name not in entries:
        raise OptionError(unknown("preset", name, sorted(entries)))
    return {key: value for key, value in entries[name].items() if key != "about"}


def _entries(package: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files(package).joinpath("presets.toml").read_text(encoding="utf-8"))
