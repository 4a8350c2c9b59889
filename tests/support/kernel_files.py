"""Files of pytest-benchmark: a real one, and changed copies."""

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
"""The smallest file, with one kernel; `of_commit` adds commit, machine and time."""


def timed(repository: Path) -> dict[str, Any]:
    """Return the file that pytest-benchmark writes at the commit of a repository."""
    folder = repository / "tests" / "perf"
    folder.mkdir(parents=True)
    (folder / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    # Within a worker of pytest-xdist nothing would be timed.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    options = ["--benchmark-max-time=0.001", "--benchmark-min-time=0.0001", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "-q", *options, "--benchmark-json=out.json"]
    subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)
    times: dict[str, Any] = json.loads((repository / "out.json").read_text(encoding="utf-8"))
    return times


def changed(times: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with another value at a path such as "benchmarks.0.stats.median"."""
    result = copy.deepcopy(times)
    *folders, name = path.split(".")
    place: Any = result
    for one in folders:
        place = place[int(one)] if isinstance(place, list) else place[one]
    if isinstance(place, list):
        place[int(name)] = value
    else:
        place[name] = value
    return result


def of_commit(
    times: dict[str, Any], commit: str, median: float, *, day: int = 1, machine: str = HERE
) -> dict[str, Any]:
    """Return a copy in which all kernels took as long at another commit."""
    result = changed(times, "commit_info.id", commit)
    result["datetime"] = f"2026-01-{day:02}T00:00:00+00:00"
    result["machine_info"]["node"] = machine
    for one in result["benchmarks"]:
        one["stats"] |= {"median": median, "q1": 0.9 * median, "q3": 1.1 * median}
    return result


def write(path: Path, times: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(times), encoding="utf-8")
    return path
