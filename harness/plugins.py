"""Brings in a user's own modules, which register estimators, tasks or models."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from estimators.errors import OptionError


def load_plugins(modules: Iterable[str]) -> None:
    """Imports modules by name, or files by path; one that is in already is left alone.

    Args:
        modules: `package.module`, or `folder/file.py`.

    Raises:
        OptionError: a module is missing or fails while it is imported.
    """
    for module in modules:
        path = Path(module)
        is_file = path.suffix == ".py"
        name = path.stem if is_file else module
        if name in sys.modules:
            continue
        try:
            if is_file:
                _load_file(name, path)
            else:
                importlib.import_module(name)
        except Exception as error:  # whatever a user's module raises is told in one line
            what = f"{type(error).__name__}: {error}"
            raise OptionError(f"--import {module}: cannot be imported ({what})") from error


def _load_file(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
