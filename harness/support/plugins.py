"""Import a user's modules, which register estimators, tasks or models."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from estimators.base.errors import OptionError


def load_plugins(modules: Iterable[str]) -> None:
    """Import `package.module` or `folder/file.py` each, unless it is imported already.

    Raises:
        OptionError: a module is missing or fails while it is imported.
    """
    for module in modules:
        path = Path(module)
        try:
            if path.suffix == ".py":
                _load_file(path.resolve())
            else:
                if str(Path.cwd()) not in sys.path:
                    sys.path.append(str(Path.cwd()))
                importlib.import_module(module)
        except (Exception, SystemExit) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise OptionError(f"--import {module}: cannot be imported ({text})") from error


def module_name(path: Path) -> str:
    """Return the module name for an absolute path; files of the same name have different ones."""
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _load_file(path: Path) -> None:
    name = module_name(path)
    if name in sys.modules:
        return
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
