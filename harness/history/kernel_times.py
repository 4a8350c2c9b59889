"""Times of kernels that pytest-benchmark has stored, as rows of the history."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from harness.cell import AXES
from harness.store.events import Problem, parse_event

FOLDER = "benchmarks"
"""Folder of a store that holds the files, each as pytest-benchmark wrote it."""

_TYPES: dict[str, Any] = {
    **dict.fromkeys(["machine", "commit", "started", "run", "outcome", "metric", "cell"], str),
    **{key: str for key, axis in AXES.items() if axis.kind is str},
    **{"depth": "Int64", "unit": str, "value": float, "low": float, "high": float},
    **{"count": "int64", "samples": object, "date": "datetime64[ms, UTC]"},
}
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_STATISTICS = {"value": "median", "low": "q1", "high": "q3"}
_UNSERIALIZABLE = "UNSERIALIZABLE["  # how pytest-benchmark writes a parameter that JSON lacks


@dataclass(frozen=True)
class KernelTimes:
    """One file of pytest-benchmark."""

    machine: str  # host name
    commit: str
    started: datetime
    rows: list[dict[str, Any]]  # columns of the table of `read_kernels` but "run"


def kernel_files(store: Path) -> list[Path]:
    """Return the files of pytest-benchmark in a store."""
    return sorted((store / FOLDER).glob("*.json"))


def read_kernels(store: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the times of all kernels in a store.

    Returns:
        A row for each file and benchmark, and what could not be read. "cell" is the name of the
        benchmark with its parameters, as pytest writes it; "metric" is its name with the
        parameters other than the estimator, so that estimators of one metric can be compared.
        "value" is the median of the rounds in seconds, "low" and "high" are their quartiles,
        "count" their number. "samples" are None: rounds of one process are not independent, and
        with thousands of them any drift would look like a difference.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    for path in kernel_files(store):
        try:
            rows += [{"run": path.stem} | row for row in parse_kernels(path.read_bytes()).rows]
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {error.strerror or error}"))
        except ValueError as error:
            problems.append(Problem(path, str(error)))
    return pd.DataFrame(rows, columns=list(_TYPES), dtype=object).astype(_TYPES), problems


def parse_kernels(content: bytes) -> KernelTimes:
    """Parse a file of pytest-benchmark."""
    document = parse_event(content) or {}
    commit_info, machine_info = (_object(document, key) for key in ("commit_info", "machine_info"))
    benchmarks, machine = document.get("benchmarks"), machine_info.get("node")
    if not (commit_info and isinstance(machine, str) and machine and isinstance(benchmarks, list)):
        raise ValueError("not a file that pytest-benchmark writes")
    commit = commit_info.get("id")
    if not isinstance(commit, str) or not _HASH.fullmatch(commit):
        raise ValueError(f"its kernels were not timed at a commit ({commit!r:.80})")
    if commit_info.get("dirty") is not False:
        raise ValueError("its kernels were timed with uncommitted changes")
    if not benchmarks:
        raise ValueError("it has no benchmark: pytest-benchmark measures with --benchmark-enable")
    started = _time(document.get("datetime"))
    if started is None:
        raise ValueError("it lacks the time at which its kernels were timed")
    shared = {
        **{"machine": machine, "commit": commit, "date": _time(commit_info.get("time"))},
        **{"started": started.isoformat(), "unit": "s", "outcome": "ok", "samples": None},
    }
    return KernelTimes(machine, commit, started, [shared | _row(one) for one in benchmarks])


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _row(benchmark: Any) -> dict[str, Any]:
    name = benchmark.get("fullname") if isinstance(benchmark, dict) else None
    if not isinstance(name, str):
        raise ValueError("a benchmark has no name")
    stats, params = (_object(benchmark, key) for key in ("stats", "params"))
    numbers: dict[str, Any] = {column: stats.get(key) for column, key in _STATISTICS.items()}
    count = stats.get("rounds")
    if not all(type(one) in (int, float) and 0 <= one < float("inf") for one in numbers.values()):
        raise ValueError(f"{name[:80]} has no median or no quartiles")
    if type(count) is not int or not 0 < count < 2**63:
        raise ValueError(f"{name[:80]} has no number of rounds")
    texts = {key: str(value) for key, value in params.items()}
    depth = params.get("depth")
    return {
        **{"cell": name, "metric": _metric(name, texts), "count": count, **numbers},
        **{key: texts.get(key, "") for key, axis in AXES.items() if axis.kind is str},
        "depth": depth if type(depth) is int and abs(depth) < 2**63 else None,
    }


def _metric(name: str, params: dict[str, str]) -> str:
    """Return the name of a kernel for all estimators, such as "test_hvp.test_one(conv4)"."""
    function = name.partition("[")[0].rpartition("/")[2].replace(".py::", ".").replace("::", ".")
    texts = [
        text
        for key, text in params.items()
        if key != "estimator" and not text.startswith(_UNSERIALIZABLE)
    ]
    return f"{function}({', '.join(texts)})" if texts else function
