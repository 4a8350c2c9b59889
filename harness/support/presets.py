"""Presets: settings that have a name, in a presets.toml of a package."""

import tomllib
from importlib.resources import files
from typing import Any

from estimators.base.errors import OptionError
from estimators.base.registry import unknown


def about(package: str) -> dict[str, str]:
    """Returns the names of all presets with a sentence about each."""
    return {name: entry["about"] for name, entry in _entries(package).items()}


def entry(package: str, name: str) -> dict[str, Any]:
    """Returns what a preset sets, by the names that its file uses.

    Raises:
        OptionError: there is no such preset.
    """
    entries = _entries(package)
    if name not in entries:
        raise OptionError(unknown("preset", name, sorted(entries)))
    return {key: value for key, value in entries[name].items() if key != "about"}


def _entries(package: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files(package).joinpath("presets.toml").read_text(encoding="utf-8"))
