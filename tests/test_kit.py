"""What measuring imports is little enough to be carried to a machine without a registry."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from harness.store.runs import read_run

ROOT = Path(__file__).resolve().parent.parent
THERE = {"torch", "numpy", "scipy", "psutil"}
"""What a machine for machine learning has, each with what it needs itself."""

# In every process of Python, so in workers and their fork server too.
BLOCKER = """
import json, os, sys

class Blocker:
    blocked = set(json.loads(os.environ["BLOCKED"]))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def needed(names: set[str]) -> set[str]:
    """Return distributions with all that they require, by their names in lower case."""
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                lines = distribution(name).requires or []
            except PackageNotFoundError:  # of another system
                continue
            left |= {re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line}
    return found


def blocked() -> list[str]:
    """Return the modules of all installed distributions but those of the kit."""
    listed = (ROOT / "tools" / "kit.txt").read_text(encoding="utf-8")
    kit = set(re.findall(r"^[\w-]+(?===)", listed, re.MULTILINE))
    assert "typer" in kit
    allowed = needed(kit | THERE) | {"metagrad-bench"}
    return [
        module
        for module, owners in packages_distributions().items()
        if not allowed & {owner.lower().replace("_", "-") for owner in owners}
    ]


def test_a_run_imports_only_what_is_in_the_kit(tmp_path: Path) -> None:
    without = blocked()
    assert {"pandas", "pyarrow", "orjson", "PIL", "sklearn", "asv"} <= {*without}
    (tmp_path / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    cells = ("--task", "quadratic", "--model", "linear", "--depth", "2", "--tasks", "1")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "quick", "--store", "results", *cells],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
        | {"BLOCKED": json.dumps(without), "METAGRAD_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    (journal,) = (tmp_path / "results" / "runs").glob("*.jsonl")
    run = read_run(journal)
    # The step size does not suit `imaml`.
    assert {cell.status for cell in run.measured} == {"ok", "failed"}, done.stderr
    assert (done.returncode, done.stderr) == (1, "")
    assert run.ended
    assert "pandas" in done.stdout  # for the table
    assert not [note for cell in run.cells for note in cell.notes if "not measured" in note]
