"""Import a user's modules, which register estimators, tasks or models."""

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from estimators.base.errors import OptionError, UserError

_OWN = ("estimators", "harness")  # what a plug-in imports them for, whatever lies beside it


def load_plugins(modules: Iterable[str]) -> tuple[str, ...]:
    """Import `package.module` or `folder/file.py` each, unless it is imported already.

    A file may import modules that lie beside it.

    Returns:
        The modules for processes with other working folders: files by their whole paths.

    Raises:
        OptionError: a module is missing or fails while it is imported.
    """
    return tuple(map(_load, modules))


def module_name(path: Path) -> str:
    """Return the module name for an absolute path; files of the same name have different ones."""
    return f"{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def _load(module: str) -> str:
    path, is_file = Path(module).resolve(), module.endswith(".py")
    if is_file and not path.is_file():
        raise OptionError(f"--import {module}: there is no such file")
    folder = path.parent if is_file else Path.cwd()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, since its files may have the names of others' modules
    try:
        if is_file:
            _refuse_hidden(_imports(path) - {path.stem}, folder)
            _load_file(path)
        else:
            names, file = module.split("."), folder.joinpath(*module.split(".")).with_suffix(".py")
            _refuse_hidden({names[0]} | (_imports(file) if file.is_file() else set()), folder)
            importlib.import_module(module)
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        text = " ".join(f"{kind}{error}".split())
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise OptionError(f"--import {module}{where}: cannot be imported ({text})") from error
    return str(path) if is_file else module


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


def _refuse_hidden(names: Iterable[str], folder: Path) -> None:
    """Refuse names of modules of a folder, or that these import, which lead to other modules.

    Raises:
        ImportError: one does, as when two plug-ins have helpers of one name.
    """
    known = {*_OWN, *sys.stdlib_module_names}
    left = {*names} - known
    while left:
        name = left.pop()
        known.add(name)
        init, beside = folder / name / "__init__.py", folder / f"{name}.py"
        if init.is_file() or not beside.is_file():
            beside = init if init.is_file() else init.parent
        spec = importlib.util.find_spec(name) if beside.exists() else None
        if spec is None or (beside.is_dir() and spec.origin):
            continue  # a folder that is no package counts only where nothing else does
        found = Path(spec.origin or next(iter(spec.submodule_search_locations or ("",))))
        same = found.resolve() == beside.resolve()
        root = found.parent.parent if found.name == "__init__.py" else found.parent
        if not same and beside.is_file() and any(root.glob("*.dist-info")):  # itself, installed
            same = found.read_bytes() == beside.read_bytes()
        if not same:
            raise ImportError(f"{beside} is hidden by {found}, which has its name; rename it")
        if beside.is_file():
            left |= _imports(beside) - known


def _imports(file: Path) -> set[str]:
    """Return the outermost names of all that a file imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
