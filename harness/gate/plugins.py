"""Plug-ins of a commit in its own version, not in that of the environment."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from estimators.base.errors import OptionError
from harness.gate.checkout import Checkout
from harness.support.git import git_text

# As `harness.support.plugins.load_plugins` finds modules, with the current folder last.
_WHERE = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
specs = {name: importlib.util.find_spec(name.partition(".")[0]) for name in sys.argv[2:]}
places = {name: spec and (spec.origin or [*spec.submodule_search_locations][0])
          for name, spec in specs.items()}
print(json.dumps(places))
"""


def relative_plugins(plugins: Sequence[str]) -> tuple[str, ...]:
    """Return plug-ins such that each commit uses its own: files relative to the current folder."""
    top = Path((git_text("rev-parse", "--show-toplevel") or "").strip()).resolve()
    relative = []
    for name in plugins:
        if not name.endswith(".py"):
            relative.append(name)
            continue
        path = Path(name).resolve()
        if not path.is_relative_to(top):
            raise OptionError(
                f"--import {name} is outside the repository: it would be the same at both commits"
            )
        relative.append(os.path.relpath(path, Path.cwd().resolve()))
    return tuple(relative)


def outside_plugins(checkout: Checkout, plugins: Sequence[str]) -> list[str]:
    """Return the plug-ins that a commit takes from the environment."""
    modules = [name for name in plugins if not name.endswith(".py")]
    repository = Path((git_text("rev-parse", "--show-toplevel") or "").strip()).resolve()
    places = _places(checkout, modules) if modules else {}
    outside = []
    for name in plugins:
        if name.endswith(".py"):
            if not (checkout.work / name).exists():
                raise _lacking(checkout, name)
            continue
        place = places.get(name)
        if place is None:
            raise _lacking(checkout, name)
        if any(place.is_relative_to(one.resolve()) for one in checkout.path):
            continue
        if place.is_relative_to(repository):
            raise OptionError(
                f"{checkout.commit[:8]} lacks --import {name}; that of {place} is no part of it"
            )
        outside.append(name)
    return outside


def _lacking(checkout: Checkout, name: str) -> OptionError:
    also = f"; {checkout.lacks}" if checkout.lacks else ""
    return OptionError(
        f"{checkout.commit[:8]} lacks --import {name}; only committed files are measured{also}"
    )


def _places(checkout: Checkout, modules: Sequence[str]) -> dict[str, Path]:
    result = subprocess.run(
        [sys.executable, "-P", "-c", _WHERE, str(checkout.work), *modules],
        cwd=checkout.work,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    places: dict[str, str | None] = json.loads(result.stdout)
    return {name: Path(place).resolve() for name, place in places.items() if place}
