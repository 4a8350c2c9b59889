"""Plug-ins of a commit: its own version of them, not that of the environment."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from estimators.base.errors import OptionError
from harness.gate.checkout import Tree
from harness.support.git import git_text

# As `harness.support.plugins.load_plugins` finds modules, with the folder that we are in last.
_WHERE = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
specs = {name: importlib.util.find_spec(name.partition(".")[0]) for name in sys.argv[2:]}
places = {name: spec and (spec.origin or [*spec.submodule_search_locations][0])
          for name, spec in specs.items()}
print(json.dumps(places))
"""


def within(plugins: Sequence[str]) -> tuple[str, ...]:
    """Returns plug-ins so that each commit has its own: files by the way from where we are.

    Raises:
        OptionError: a file is outside the repository.
    """
    top = Path((git_text("rev-parse", "--show-toplevel") or "").strip()).resolve()
    found = []
    for name in plugins:
        if not name.endswith(".py"):
            found.append(name)
            continue
        path = Path(name).resolve()
        if not path.is_relative_to(top):
            raise OptionError(
                f"--import {name} is outside the repository: it would be the same at both commits"
            )
        found.append(os.path.relpath(path, Path.cwd().resolve()))
    return tuple(found)


def foreign(tree: Tree, plugins: Sequence[str]) -> list[str]:
    """Returns the modules that a commit has from the environment.

    Raises:
        OptionError: a plug-in is missing, or is that of this checkout and not of the commit.
    """
    modules = [name for name in plugins if not name.endswith(".py")]
    here = Path((git_text("rev-parse", "--show-toplevel") or "").strip()).resolve()
    places = _places(tree, modules) if modules else {}
    found = []
    for name in plugins:
        if name.endswith(".py"):
            if not (tree.work / name).exists():
                raise OptionError(f"{tree.commit[:8]} lacks --import {name}")
            continue
        place = places.get(name)
        if place is None:
            raise OptionError(f"{tree.commit[:8]} lacks --import {name}")
        if any(place.is_relative_to(one.resolve()) for one in tree.path):
            continue
        if place.is_relative_to(here):
            raise OptionError(
                f"{tree.commit[:8]} lacks --import {name}; that of {place} is no part of it"
            )
        found.append(name)
    return found


def _places(tree: Tree, modules: Sequence[str]) -> dict[str, Path]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _WHERE, str(tree.work), *modules],
        cwd=tree.work,
        env=tree.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, str | None] = json.loads(done.stdout)
    return {name: Path(place).resolve() for name, place in told.items() if place}
