"""Order in the repository: imports point down, and a session of tests cleans up behind itself."""

import ast
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("estimators", "harness", "reports", "benchmarks")
ABOVE = {
    "estimators": {"harness", "reports", "benchmarks", "app", "numpy", "pandas"},
    "harness": {"reports", "benchmarks", "app"},
    "reports": {"benchmarks", "app", "torch"},
}
MOST_FOLDERS = 32
"""Among them the four floors themselves; a new folder has to be worth it."""


def imported(path: Path, modules: Collection[str] = ()) -> set[str]:
    """Return the full names of the modules that a file imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & set(modules)
            if not inside <= set(modules):
                names.add(node.module)
    return names


def folders() -> dict[str, set[str]]:
    """Return the folders of the product, and which others each of them imports."""
    files = [path for floor in PRODUCT for path in sorted((ROOT / floor).rglob("*.py"))]
    modules: dict[str, str] = {}
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[dotted] = "/".join(parts[:-1])
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in files:
        here = path.parent.relative_to(ROOT).as_posix()
        for name in imported(path, modules) & modules.keys():
            found[here] |= {modules[name]} - {here}
    return dict(found)


def test_imports_point_down() -> None:
    for floor, above in ABOVE.items():
        files = sorted((ROOT / floor).rglob("*.py"))
        assert files
        for path in files:
            tops = {name.partition(".")[0] for name in imported(path)}
            assert not tops & (above | {"pytest", "tests", "tools"}), path


def test_folders_are_few_and_no_two_import_each_other() -> None:
    left = folders()
    assert len(left) <= MOST_FOLDERS
    assert {"estimators/base", "harness/cell", "reports/tables"} <= left.keys()
    while lowest := [folder for folder, below in left.items() if not below & left.keys()]:
        for folder in lowest:
            del left[folder]
    assert not left, f"these import one another in a circle: {left}"


def test_a_session_of_tests_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "mgt-999999999").mkdir()  # of a session that was killed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", __file__],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
