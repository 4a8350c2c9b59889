"""Files of pytest-benchmark: a real one, and others made of it."""

import copy
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = platform.node()
TESTS = """
import pytest

@pytest.mark.parametrize("task", ["sinusoid", "glyphs"])
@pytest.mark.parametrize("estimator", ["maml", "binom(order=2)"])
def test_estimate(benchmark, estimator, task):
    benchmark(sum, range(100))

def test_alone(benchmark):
    benchmark(sum, range(100))

@pytest.mark.parametrize("odd", [object()])
def test_odd(benchmark, odd):
    benchmark(sum, range(100))
"""
STATS = {"median": 1.0, "q1": 1.0, "q3": 1.0, "rounds": 5}
KERNELS: dict[str, Any] = {
    **{"commit_info": {"dirty": False, "time": None}, "machine_info": {}, "datetime": ""},
    "benchmarks": [{"fullname": "test_x.py::test_x", "params": None, "stats": STATS}],
}
"""The least that a file has, of one kernel; `of_commit` adds commit, machine and time."""


def timed(repository: Path) -> dict[str, Any]:
    """What pytest-benchmark writes when it times some kernels at the commit of a repository."""
    folder = repository / "tests" / "perf"
    folder.mkdir(parents=True)
    (folder / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    # Within a worker of pytest-xdist nothing would be timed.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    options = ["--benchmark-max-time=0.001", "--benchmark-min-time=0.0001", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "-q", *options, "--benchmark-json=out.json"]
    subprocess.run(command, cwd=repository, env=kept, check=True, capture_output=True)
    told: dict[str, Any] = json.loads((repository / "out.json").read_text(encoding="utf-8"))
    return told


def changed(told: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a path such as "benchmarks.0.stats.median"."""
    found = copy.deepcopy(told)
    *folders, name = path.split(".")
    place: Any = found
    for one in folders:
        place = place[int(one)] if isinstance(place, list) else place[one]
    if isinstance(place, list):
        place[int(name)] = value
    else:
        place[name] = value
    return found


def of_commit(
    told: dict[str, Any], commit: str, median: float, *, day: int = 1, machine: str = HERE
) -> dict[str, Any]:
    """A copy in which all kernels took as long at another commit."""
    found = changed(told, "commit_info.id", commit)
    found["datetime"] = f"2026-01-{day:02}T00:00:00+00:00"
    found["machine_info"]["node"] = machine
    for one in found["benchmarks"]:
        one["stats"] |= {"median": median, "q1": 0.9 * median, "q3": 1.1 * median}
    return found


def write(path: Path, told: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")
    return path
