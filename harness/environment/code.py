"""The code that is measured: commit, uncommitted changes, plug-ins, packages."""

import hashlib
import os
import re
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import estimators
from harness.support.git import git_text
from harness.support.plugins import module_name

_PROJECT = "metagrad-bench"
_OWN = ("estimators", "harness", "reports", "tests")  # in `source`, or not measured
_MAIN = ("__main__", "__mp_main__")  # the script that was started
_INSTALLED = {"site-packages", "dist-packages"}
_GROUPS = ("metagrad.estimators", "metagrad.tasks", "metagrad.models")
_LARGE = 2**24  # bytes; a larger file that has changed is identified by size and date


def checkout(store: Path | None = None) -> dict[str, str]:
    """Return the commit and a digest of the changes since.

    The commit is that of the working folder, or the one that asv has installed; "" if there is
    none. The digest is "" for a clean checkout and "unknown" if git fails. Files that git ignores
    do not count, nor does the folder of results.
    """
    if installed := os.environ.get("ASV_COMMIT"):
        return {"commit": installed, "changes": ""}
    head = git_text("rev-parse", "HEAD", "--show-toplevel")
    if head is None:
        return {"commit": "", "changes": ""}
    commit, folder = head.rstrip("\n").split("\n", 1)
    return {"commit": commit, "changes": _changes(Path(folder), store)}


def _changes(folder: Path, store: Path | None) -> str:
    only = [":/"]
    if store is not None and store.resolve().is_relative_to(folder.resolve()):
        inside = store.resolve().relative_to(folder.resolve())
        # If the store is the checkout itself, only journals are known to be results.
        only.append(f":(top,exclude,literal){inside.as_posix() if inside.parts else 'runs'}")
    # Without optional locks: another git may be using the same checkout.
    status = git_text(
        *("-C", str(folder), "--no-optional-locks", "status", "--porcelain", "-z"),
        *("--no-renames", "--untracked-files=all", "--", *only),
    )
    if status is None:
        return "unknown"
    changes = hashlib.sha256()
    # Without their status, and sorted: staging a file does not change the digest.
    for name in sorted(entry[3:] for entry in status.split("\0") if entry):
        changes.update(os.fsencode(name) + b"\0" + _content(folder / name) + b"\0")
    return changes.hexdigest()[:12] if status else ""


def _content(path: Path) -> bytes:
    try:
        facts = path.stat()
        if facts.st_size > _LARGE:
            return f"{facts.st_size} {facts.st_mtime_ns}".encode()
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:  # deleted, another repository, or not readable
        return b""


def source() -> str:
    """Return a digest of the files of `estimators` and `harness`, as imported in this process."""
    folders = [*map(Path, estimators.__path__), Path(__file__).parents[1]]
    return _digest(
        path
        for folder in folders
        for path in folder.rglob("*")
        # Not by the ending .pyc: files that Python is just writing have others.
        if path.is_file() and path.parent.name != "__pycache__"
    )


def plugins(modules: Iterable[str]) -> dict[str, str]:
    """Return digests, by module, of the code that is neither in `source` nor has a version.

    These are plug-ins, their imports, and editable installs that entry points have loaded: all
    that this process has imported so far except the standard library, installed distributions and
    the project itself. Of a package in `modules`, all modules count.
    """
    found: defaultdict[str, set[Path]] = defaultdict(set)
    for module in modules:
        name = Path(module).stem if module.endswith(".py") else module
        found[name].update(path.resolve() for path in _sources(module))
    for name, path in _imported():
        found[name].add(path)
    digests = {name: _digest(found[name]) for name in sorted(found)}
    return {name: text for name, text in digests.items() if text}


def _imported() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).resolve().parents[2]
    standard = sysconfig.get_path("stdlib")
    for name, module in list(sys.modules.items()):  # another thread may import something
        spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None
        origin = getattr(spec, "origin", None)  # "built-in", "frozen", None, or a file
        if name in _MAIN or not isinstance(origin, str):
            continue
        path = Path(origin)
        if not path.is_absolute() or path.is_relative_to(standard):
            continue
        if not _INSTALLED.isdisjoint(path.parts):
            continue
        path = path.resolve()
        if path.is_relative_to(root) and path.relative_to(root).parts[0] in _OWN:
            continue
        yield (path.stem if name == module_name(path) else name), path


def _sources(module: str) -> list[Path]:
    if module.endswith(".py"):
        return [Path(module)]
    try:
        spec = find_spec(module)
    except Exception:  # its parent packages are imported, and may raise anything
        spec = None
    if spec is None or spec.origin is None:
        return []
    folders = spec.submodule_search_locations or []
    return [path for folder in folders for path in Path(folder).rglob("*.py")] or [
        Path(spec.origin)
    ]


def packages() -> dict[str, str]:
    """Return the versions of the project, its dependencies and installed plug-ins."""
    try:
        required = requires(_PROJECT) or []
    except PackageNotFoundError:  # not installed
        required = ["torch", "numpy"]
    names = [_PROJECT]
    names += [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    installed = entry_points()
    for group in _GROUPS:
        names += [point.dist.name for point in installed.select(group=group) if point.dist]
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # required only on other systems, or not installed
            continue
    return found


def _digest(paths: Iterable[Path]) -> str:
    """Return 12 digits of the SHA-256 of a file, or of those of several; "" if none is there."""
    digests = []
    for path in sorted(paths):
        with suppress(OSError):
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    if len(digests) > 1:
        digests = [hashlib.sha256("".join(digests).encode()).hexdigest()]
    return digests[0][:12] if digests else ""
