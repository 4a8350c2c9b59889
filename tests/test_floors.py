"""Imports point down, and what ships needs nothing that only developers have."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ABOVE = {
    "estimators": {"harness", "reports", "benchmarks", "app", "numpy", "pandas"},
    "harness": {"reports", "benchmarks", "app"},
    "reports": {"benchmarks", "app", "torch"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("floor", ABOVE)
def test_imports_point_down(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & (ABOVE[floor] | {"pytest"}), path
